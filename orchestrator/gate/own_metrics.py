"""Effects. A user's own metric: found by its name among the entry points of installed packages, never in a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.offered import checked
from tasks.contract import BadInput
from tasks.offers import names_offered, offered

ENTRY_POINTS = "prunefleet.metrics"
KNOWN = ("perplexity", "loss", "accuracy", "f1", "fidelity", "mse", "mae")
"""Metrics of prunefleet itself; no entry point can stand in for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number for each example; the value of a model is the mean over examples.

    What stands under a name is part of no unit key: a metric that changes takes another name.
    """

    score: Callable[[Mapping[str, Any]], float]
    """A row of `outcomes` -> a finite number: its loss, label, prediction, probabilities, target, answer, slices, …"""
    falls_with_harm: bool
    """True: higher is better, and the gates count points. False: lower is better, and they count the relative increase."""


def metric_named(name: str) -> Metric:
    """The metric that an installed package offers under the entry point group `prunefleet.metrics`; else BadInput."""
    if own := offered(ENTRY_POINTS, name, Metric, "the metric"):
        return own
    known = ", ".join(sorted({*KNOWN, *names_offered(ENTRY_POINTS)}))
    raise _refusal(f"{name!r} is unknown here", f"Use one of: {known}.")


def scores_of(name: str, metric: Metric, rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """One score a row; NaN where the metric gives no finite number. BadInput where it raises."""
    found = []
    for row in rows:
        try:
            score = float(metric.score(row))
        except (
            Exception
        ) as error:  # a stranger's function may raise anything, and the metric's name must be told
            raise _refusal(
                f"{name!r} raises {type(error).__name__} on example {row.get('example')}: {str(error)[:300]}",
                "Correct the metric.",
            ) from error
        found.append(score if math.isfinite(score) else math.nan)
    return found


def known_metric(name: str) -> str:
    """The name, if it stands for a metric here; else ValueError, with what there is."""
    return checked(name, KNOWN, ENTRY_POINTS)


def _refusal(why: str, do: str) -> BadInput:
    return BadInput("the metric cannot be used", why=why, do=do)

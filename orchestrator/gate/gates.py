"""Pure. The quality gate: what a comparison with the dense model allows to be published, with stated error rates.

BLOCK where harm is shown and beyond its margin; PASS where it is shown that no slice loses as much as its margin;
INCONCLUSIVE otherwise, with the examples that an answer needs. The whole is a slice like any other, named `all`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.domain import Judgement
from orchestrator.gate import gatewords
from orchestrator.gate.comparison import Comparison, compare
from orchestrator.gate.decision import JUDGEMENTS, decide
from orchestrator.gate.looks import spent
from orchestrator.gate.needs import needed
from orchestrator.gate.pairing import ALL, Row, group, pair
from tasks.contract import Finding

OVERALL = "overall"
"""The gate of the one row that sums a verdict up."""
WHOLE_GATE, SLICE_GATE = "max_drop", "max_slice_drop"

_SEVERITY = {Judgement.BLOCK: 0, Judgement.INCONCLUSIVE: 1, Judgement.PASS: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """How much worse is too much: points of accuracy, F1 or agreement, or relative increase of loss, error or perplexity."""

    max_drop: float | None = None
    max_slice_drop: float | None = None
    confidence: float = 0.95
    min_samples: int = 10
    look: int | None = None
    """Which verdict this is of all that share one error, from 1; None where it has an error of its own."""

    def margin(self, name: str) -> float | None:
        """What a slice may lose; None where no gate is about it."""
        return self.max_drop if name == ALL else self.max_slice_drop

    @property
    def alpha(self) -> float:
        """The error that a verdict may make; of looks, all that there will ever be make no more together."""
        return spent(round(1 - self.confidence, 12), self.look)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Rows for the tables of the same names, without identity columns."""

    evaluations: tuple[dict[str, Any], ...]
    """The whole first, then the slices, worst first."""
    verdicts: tuple[dict[str, Any], ...]
    """The `overall` row first, then one row a gate and slice, worst first."""
    findings: tuple[Finding, ...]
    """Why something could not be judged, and other things a person should know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one gate says of one slice, and the numbers that led to it: a row of the table `verdicts`."""

    judgement: Judgement
    gate: str
    slice: str
    observed: float | None = None
    limit: float | None = None
    p_value: float | None = None
    samples_needed: int | None = None
    """Examples, or clusters, that there would have to be in all."""
    upper_bound: float | None = None
    alpha: float | None = None
    samples: int | None = None
    worse: int | None = None
    better: int | None = None

    def row(self) -> dict[str, Any]:
        """For the table `verdicts`."""
        columns = {name: getattr(self, name) for name in self.__slots__ if name != "judgement"}
        return {"verdict": self.judgement.value, **columns}


def judge(
    dense: Sequence[Row],
    pruned: Sequence[Row],
    *,
    dataset: str,
    metric: str,
    slices: Sequence[str],
    gates: Gates | None,
    seed: int,
    default_slices: Sequence[str] = (),
    cluster: str | None = None,
) -> Judged:
    """Outcomes of a dense model and its compressed child -> what changed, by slice, and the verdict.

    Examples with one value in the slice column `cluster` belong together. Without gates it only measures: one
    `overall` row without a limit, `pass` if the whole could be measured.
    """
    rules = gates or Gates()
    pairs = pair(dense, pruned, cluster)
    if isinstance(pairs, Finding):
        return Judged(evaluations=(), verdicts=(_summary((), None).row(),), findings=(pairs,))
    groups, missing = group(pairs, slices, default_slices, rules.min_samples)
    alpha = rules.alpha
    comparisons = sorted(
        (
            compare(
                pairs, name, index, metric=metric, confidence=rules.confidence, seed=seed,
                alpha=alpha, margin=rules.margin(name),
            )
            for name, index in groups.items()
        ),
        key=_worst_first,
    )  # fmt: skip
    whole = comparisons[0]
    if gates is None:
        verdicts: tuple[Verdict, ...] = ()
        told: tuple[Finding, ...] = (gatewords.UNGATED,)
    else:
        verdicts = by_evidence(comparisons, gates, metric=metric, alpha=alpha)
        told = tuple(gatewords.told(comparisons, {v.slice: v.row() for v in verdicts}, gates, alpha, cluster))
        verdicts, about_slices = _with_missing(verdicts, gates, missing)
        told += about_slices
    summary = _summary(verdicts, whole if gates is None else None)
    problems = [comparison.problem for comparison in comparisons if comparison.problem]
    return Judged(
        evaluations=tuple(_evaluation(comparison, dataset, metric) for comparison in comparisons),
        verdicts=(summary.row(), *(verdict.row() for verdict in verdicts)),
        findings=(*missing, *problems, *told),
    )


def by_evidence(
    comparisons: Sequence[Comparison],
    gates: Gates,
    *,
    metric: str,
    alpha: float,
) -> tuple[Verdict, ...]:
    """Each gate on each of its slices, worst first. All slices that have examples enough are one family for Holm."""
    whole = next(comparison for comparison in comparisons if comparison.slice == ALL)
    gated = [c for c in comparisons if gates.margin(c.slice) is not None]
    tested = [c for c in gated if c.problem is None and c.units >= gates.min_samples]
    codes = decide(
        [_number(c.p_value) for c in tested],
        [_number(c.drop) for c in tested],
        [_number(c.bound) for c in tested],
        [_number(gates.margin(c.slice)) for c in tested],
        alpha,
    )
    judged = {c.slice: JUDGEMENTS[code] for c, code in zip(tested, codes, strict=True)}
    verdicts = []
    for comparison in gated:
        margin = gates.margin(comparison.slice)
        assert margin is not None
        judgement = judged.get(comparison.slice, Judgement.INCONCLUSIVE)
        is_open = judgement is Judgement.INCONCLUSIVE and comparison.problem is None
        verdicts.append(
            Verdict(
                judgement=judgement,
                gate=WHOLE_GATE if comparison.slice == ALL else SLICE_GATE,
                slice=comparison.slice,
                observed=comparison.drop,
                limit=margin,
                p_value=comparison.p_value,
                samples_needed=needed(
                    comparison, whole, margin, metric=metric, alpha=alpha, tests=len(tested), least=gates.min_samples
                ) if is_open else None,
                upper_bound=comparison.bound,
                alpha=alpha,
                samples=comparison.samples,
                worse=comparison.worse,
                better=comparison.better,
            )
        )  # fmt: skip
    return tuple(sorted(verdicts, key=_severest_first))


def _with_missing(
    verdicts: tuple[Verdict, ...], gates: Gates, missing: Sequence[Finding]
) -> tuple[tuple[Verdict, ...], tuple[Finding, ...]]:
    """The same and what is gated but not there: slice columns that no example has, or any slices at all."""
    if gates.max_slice_drop is None:
        return verdicts, ()
    absent = [_unjudged(SLICE_GATE, column.subject, gates.max_slice_drop) for column in missing]
    found: tuple[Finding, ...] = ()
    if not missing and not any(verdict.gate == SLICE_GATE for verdict in verdicts):
        absent, found = [_unjudged(SLICE_GATE, "", gates.max_slice_drop)], (gatewords.NO_SLICES,)
    return tuple(sorted((*verdicts, *absent), key=_severest_first)), found


def _summary(verdicts: Sequence[Verdict], measured: Comparison | None) -> Verdict:
    """The one `overall` row: that of the worst verdict, or of a measurement without gates."""
    if verdicts:
        return replace(verdicts[0], gate=OVERALL)
    if measured is None or measured.drop is None:
        return _unjudged(OVERALL, ALL, None)
    return Verdict(
        judgement=Judgement.PASS,
        gate=OVERALL,
        slice=ALL,
        observed=measured.drop,
        p_value=measured.p_value,
        upper_bound=measured.bound,
        samples=measured.samples,
        worse=measured.worse,
        better=measured.better,
    )


def _unjudged(gate: str, name: str, limit: float | None) -> Verdict:
    return Verdict(judgement=Judgement.INCONCLUSIVE, gate=gate, slice=name, limit=limit)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _evaluation(comparison: Comparison, dataset: str, metric: str) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "metric": metric,
        "slice": comparison.slice,
        "samples": comparison.samples,
        "dense_value": comparison.dense_value,
        "value": comparison.value,
        "delta": comparison.delta,
        "ci_low": comparison.ci_low,
        "ci_high": comparison.ci_high,
        "flips": comparison.flips,
        "kl_divergence": comparison.kl_divergence,
        "kl_p99": comparison.kl_p99,
        "agreement": comparison.agreement,
        "falls": comparison.falls,
    }


def _worst_first(comparison: Comparison) -> tuple[bool, bool, float, str]:
    drop = comparison.drop
    return comparison.slice != ALL, drop is not None, -(drop or 0.0), comparison.slice


def _severest_first(verdict: Verdict) -> tuple[int, bool, float, str, str]:
    beyond = (verdict.observed or 0.0) - (verdict.limit or 0.0)
    return _SEVERITY[verdict.judgement], verdict.observed is not None, -beyond, verdict.gate, verdict.slice

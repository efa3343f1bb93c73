"""Effects. The judge unit: outcomes of two models in, result rows out; a user's own metric is looked up, all else is pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.gate.exemplars import exemplars
from orchestrator.gate.gates import Gates, judge
from orchestrator.gate.own_metrics import KNOWN, Metric, metric_named, scores_of
from orchestrator.gate.pairing import Row


def run(
    params: Mapping[str, Any],
    dense_rows: Sequence[Row],
    pruned_rows: Sequence[Row],
    seed: int,
) -> dict[str, list[dict[str, Any]]]:
    """Rows by table name: `evaluations`, `verdicts`, `exemplars`, `findings`.

    `params` has `dataset`, `metric`, `slices` and `gates`, which is None where the recipe only measures; and
    `default_slices` where it names no slices, `cluster` where a column says which examples belong together.
    """
    dense, pruned = dense_rows, pruned_rows
    if params["metric"] not in KNOWN:
        own = metric_named(params["metric"])
        dense, pruned = (_scored(params["metric"], own, rows) for rows in (dense_rows, pruned_rows))
    judged = judge(
        dense,
        pruned,
        dataset=params["dataset"],
        metric=params["metric"],
        slices=params["slices"],
        gates=None if params["gates"] is None else Gates(**params["gates"]),
        seed=seed,
        default_slices=params.get("default_slices", ()),
        cluster=params.get("cluster"),
    )
    return {
        "evaluations": list(judged.evaluations),
        "verdicts": list(judged.verdicts),
        "exemplars": exemplars(dense_rows, pruned_rows),
        "findings": [asdict(finding) for finding in judged.findings],
    }


def _scored(name: str, metric: Metric, rows: Sequence[Row]) -> list[Row]:
    scores = scores_of(name, metric, rows)
    return [
        {**row, "score": score, "score_falls": metric.falls_with_harm}
        for row, score in zip(rows, scores, strict=True)
    ]

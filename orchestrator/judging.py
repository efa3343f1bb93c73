"""Pure. The judge unit: outcomes of a dense model and its compressed child in, result rows out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.comparison import Row
from orchestrator.gates import Gates, judge


def run(
    params: Mapping[str, Any], dense_rows: Sequence[Row], pruned_rows: Sequence[Row], seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Rows by table name: `evaluations`, `verdicts`, `findings`.

    `params` has `dataset`, `metric`, `slices` and `gates`, which is None where the recipe only measures; and
    `default_slices` where it names no slices.
    """
    judged = judge(
        dense_rows,
        pruned_rows,
        dataset=params["dataset"],
        metric=params["metric"],
        slices=params["slices"],
        gates=None if params["gates"] is None else Gates(**params["gates"]),
        seed=seed,
        default_slices=params.get("default_slices", ()),
    )
    return {
        "evaluations": list(judged.evaluations),
        "verdicts": list(judged.verdicts),
        "findings": [asdict(finding) for finding in judged.findings],
    }

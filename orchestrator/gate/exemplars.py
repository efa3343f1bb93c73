"""Pure. The examples whose predictions pruning moved most: a list for people to look at, not a gate.

They need no labels and no groups. Source: Hooker et al., 2010.03058 (compression identified exemplars, Taxicab distance).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.gate.pairing import Row

SHARE = 0.01
LEAST = 5
MOST = 100
"""One in a hundred is listed, but a handful at least, and not more than anyone would look at."""


def exemplars(dense: Sequence[Row], pruned: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of the table `exemplars`, the farthest first; examples that did not move, or not by a known amount, are none.

    `measure` says what the distance is: `taxicab`, the sum of the absolute changes of the probabilities, from 0 to 2;
    `kl`, the mean KL divergence of an example's predictions in nats; `embedding`, 1 - cosine; `loss`, the absolute change
    of the loss a prediction.
    """
    theirs = {int(row["example"]): row for row in pruned}
    moved = [
        (distance, measure, row, theirs[int(row["example"])])
        for row in dense
        if int(row["example"]) in theirs
        for measure, distance in _distance(row, theirs[int(row["example"])])
        if math.isfinite(distance) and distance > 0
    ]
    moved.sort(key=lambda one: (-one[0], int(one[2]["example"])))
    wanted = min(MOST, max(LEAST, math.ceil(SHARE * len(dense))))
    return [_row(*one) for one in moved[:wanted]]


def _distance(dense: Row, pruned: Row) -> Iterator[tuple[str, float]]:
    """The first that both rows know."""
    before, after = dense.get("probabilities"), pruned.get("probabilities")
    if before and after and len(before) == len(after):
        yield "taxicab", math.fsum(abs(p - q) for p, q in zip(before, after, strict=True))
    elif pruned.get("kl"):
        yield "kl", math.fsum(pruned["kl"]) / len(pruned["kl"])
    elif pruned.get("distance") is not None:
        yield "embedding", float(pruned["distance"])
    elif dense.get("loss") is not None and pruned.get("loss") is not None:
        yield "loss", abs(float(pruned["loss"]) - float(dense["loss"])) / (dense.get("tokens") or 1)


def _row(distance: float, measure: str, dense: Row, pruned: Row) -> dict[str, Any]:
    slices: Mapping[str, Any] = dense.get("slices") or {}
    return {
        "example": int(dense["example"]),
        "slices": ", ".join(f"{column}={value}" for column, value in slices.items()),
        "measure": measure,
        "distance": distance,
        "label": dense.get("label"),
        "dense_prediction": dense.get("prediction"),
        "prediction": pruned.get("prediction"),
    }

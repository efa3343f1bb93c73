"""Pure. The outcomes of a dense model and its compressed child, matched example by example, and their slices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.gate.default_slices import default_groups
from orchestrator.gate.statistics import Floats
from tasks.contract import Finding

Row = Mapping[str, Any]
Index = NDArray[np.intp]

ALL = "all"
"""The name of the slice that holds every example."""
NO_VALUE = "(none)"
"""Stands for the value of an example that has none in a slice column; no example is left out."""
_LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)  # a softmax in float32 underflows to exactly 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """The same examples, dense and compressed, in order of their number. NaN stands for what is not there."""

    examples: tuple[int, ...]
    dense_loss: Floats
    loss: Floats
    tokens: Floats
    dense_correct: Floats
    correct: Floats
    label: Floats
    dense_prediction: Floats
    prediction: Floats
    changed: Floats
    """Predictions whose most likely answer changed."""
    kl: tuple[Floats, ...]
    """Of every prediction of an example; empty where it is not known."""
    distance: Floats
    """Of the embeddings of a model without a head."""
    dense_error: Floats
    error: Floats
    """Absolute, of a regression."""
    dense_score: Floats
    score: Floats
    """By a user's own metric."""
    score_falls: bool | None
    slices: tuple[Mapping[str, str | None], ...]
    confidence: Floats
    """Of the dense model: the chance it gives to its own answer, or to a text's tokens in the geometric mean."""
    length: Floats
    """Tokens of a text."""
    clusters: Index | None = None
    """The number of each example's cluster; None if all examples are independent of each other."""


def pair(dense: Sequence[Row], pruned: Sequence[Row], cluster: str | None = None) -> Pairs | Finding:
    """Outcome rows of both models matched by example, or why they are not about the same examples.

    Examples with one value in the slice column `cluster` belong together.
    """
    ours = {int(row["example"]): row for row in dense}
    theirs = {int(row["example"]): row for row in pruned}
    if len(ours) != len(dense) or len(theirs) != len(pruned):
        return _differ("an example stands twice in the outcomes of one model")
    if odd := sorted(ours.keys() ^ theirs.keys()):
        return _differ(f"{len(odd)} examples were seen by one model only, first example {odd[0]}")
    for example in sorted(ours):
        for column in ("label", "tokens", "slices"):
            if _given(ours[example], column) != _given(theirs[example], column):
                return _differ(f"example {example} has another {column} for the compressed model")
    order = sorted(ours)
    clusters = None
    if cluster is not None:
        values = [(ours[i].get("slices") or {}).get(cluster) for i in order]
        if None in values:
            message = "Not every example has this column, by which the dataset says what belongs together."
            return Finding(kind="missing_cluster", subject=cluster, message=message)
        clusters = np.unique(np.array(values, dtype=str), return_inverse=True)[1]
    return Pairs(
        examples=tuple(order),
        dense_loss=_numbers(ours, order, "loss"),
        loss=_numbers(theirs, order, "loss"),
        tokens=_numbers(ours, order, "tokens"),
        dense_correct=_numbers(ours, order, "correct"),
        correct=_numbers(theirs, order, "correct"),
        label=_numbers(ours, order, "label"),
        dense_prediction=_numbers(ours, order, "prediction"),
        prediction=_numbers(theirs, order, "prediction"),
        changed=np.array([_changed(ours[i], theirs[i]) for i in order], dtype=np.float64),
        kl=tuple(_divergences(ours[i], theirs[i]) for i in order),
        distance=_numbers(theirs, order, "distance"),
        dense_error=_numbers(ours, order, "absolute_error"),
        error=_numbers(theirs, order, "absolute_error"),
        dense_score=_numbers(ours, order, "score"),
        score=_numbers(theirs, order, "score"),
        score_falls=next((bool(row["score_falls"]) for row in dense if "score_falls" in row), None),
        slices=tuple(ours[i].get("slices") or {} for i in order),
        confidence=np.array([_confidence(ours[i]) for i in order], dtype=np.float64),
        length=_numbers(ours, order, "length"),
        clusters=clusters,
    )


def group(
    pairs: Pairs, columns: Sequence[str], defaults: Sequence[str] = (), least: int = 1
) -> tuple[dict[str, Index], tuple[Finding, ...]]:
    """Slice name -> positions of its examples, the whole first; and the columns that no example has.

    `defaults` are kinds of slices that no column names (see `default_slices`), of at least so many examples or clusters each.
    """
    groups: dict[str, Index] = {ALL: np.arange(len(pairs.slices))}
    known = {"label": pairs.label, "confidence": pairs.confidence, "length": pairs.length}
    groups |= default_groups(known, defaults, least, pairs.clusters)
    missing = []
    for column in columns:
        if not any(column in slices for slices in pairs.slices):
            message = (
                "No example has this slice column: its slices cannot be judged. Name a column of the dataset."
            )
            missing.append(Finding(kind="missing_slice", subject=column, message=message))
            continue
        values = [_value(slices.get(column)) for slices in pairs.slices]
        members: dict[str, list[int]] = {}
        for position, value in enumerate(values):
            members.setdefault(value, []).append(position)
        groups |= {f"{column}={value}": np.array(members[value]) for value in sorted(members)}
    return groups, tuple(missing)


def _confidence(dense: Row) -> float:
    if dense.get("probabilities"):
        return float(max(dense["probabilities"]))
    is_text = dense.get("prediction") is None and dense.get("absolute_error") is None
    if is_text and dense.get("loss") is not None and dense.get("tokens"):
        return math.exp(-float(dense["loss"]) / float(dense["tokens"]))
    return math.nan


def _changed(dense: Row, pruned: Row) -> float:
    """Predictions of an example whose most likely answer is another; NaN where that is not known."""
    if pruned.get("kl") is not None:
        return math.nan if pruned.get("flips") is None else float(pruned["flips"])
    before, after = dense.get("prediction"), pruned.get("prediction")
    return math.nan if before is None or after is None else float(before != after)


def _divergences(dense: Row, pruned: Row) -> Floats:
    """As measured from the logits side by side, or else from the probabilities that both rows list."""
    measured = pruned.get("kl")
    if measured is not None:
        return np.array(measured, dtype=np.float64)
    value = _kl(dense.get("probabilities"), pruned.get("probabilities"))
    return np.array([] if math.isnan(value) else [value], dtype=np.float64)


def _kl(dense: Sequence[float] | None, pruned: Sequence[float] | None) -> float:
    """KL divergence in nats from the dense to the compressed prediction; NaN where one is missing."""
    if not dense or not pruned or len(dense) != len(pruned):
        return math.nan
    p, q = np.asarray(dense, dtype=np.float64), np.asarray(pruned, dtype=np.float64)
    if not (np.isfinite(p).all() and np.isfinite(q).all()) or min(p.min(), q.min()) < 0:
        return math.nan
    p, q = np.maximum(p, _LEAST_PROBABILITY), np.maximum(q, _LEAST_PROBABILITY)
    return max(0.0, float((p * np.log(p / q)).sum()))


def _numbers(rows: Mapping[int, Row], order: Sequence[int], column: str) -> Floats:
    values = (rows[example].get(column) for example in order)
    return np.array([math.nan if value is None else float(value) for value in values], dtype=np.float64)


def _given(row: Row, column: str) -> Any:
    value = row.get(column)
    return dict(value or {}) if column == "slices" else value


def _value(value: str | None) -> str:
    return NO_VALUE if value is None else str(value)


def _differ(what: str) -> Finding:
    message = (
        f"The two models were not measured on the same examples: {what}. Evaluate both again on one dataset."
    )
    return Finding(kind="examples_differ", subject=ALL, message=message)

"""Pure. A compressed model beside its dense parent on the same examples: values, change, interval by slice."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.default_slices import default_groups
from orchestrator.f1 import f1_drops, macro_f1
from orchestrator.statistics import (
    Floats,
    bootstrap_bounds,
    bootstrap_ratios,
    mcnemar_p,
    sign_flip_p,
    tango_bound,
    tango_interval,
)
from tasks.contract import Finding

Row = Mapping[str, Any]
Index = NDArray[np.intp]

ALL = "all"
"""The name of the slice that holds every example."""
NO_VALUE = "(none)"
"""Stands for the value of an example that has none in a slice column; no example is left out."""
_LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)  # a softmax in float32 underflows to exactly 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One slice, dense against compressed. Numbers are None where `problem` says why they cannot be had."""

    slice: str
    samples: int
    dense_value: float | None = None
    value: float | None = None
    drop: float | None = None
    """How much worse: points of accuracy, F1 or agreement lost, or the relative increase of loss, error or perplexity."""
    ci_low: float | None = None
    ci_high: float | None = None
    """Of value - dense_value. For loss and perplexity: of the relative change, scaled by this dense value."""
    drop_bound: float | None = None
    """One-sided upper bound of the drop."""
    p_value: float | None = None
    """One-sided: how likely at least this drop is where nothing changed."""
    spread: float | None = None
    """Variance of one example's change, for planning sample sizes; the flip rate for accuracy."""
    flips: int | None = None
    """Answers that turned right or wrong; for fidelity: predictions that changed."""
    kl_divergence: float | None = None
    """From the dense to the compressed prediction, in nats: the mean over predictions."""
    kl_p99: float | None = None
    """What 99 % of the predictions do not exceed, one of the observed values."""
    agreement: float | None = None
    """Share of the predictions whose most likely answer stayed."""
    falls: bool | None = None
    """Of a user's own metric: whether it falls with harm. None for a metric of prunefleet's, whose name tells."""
    problem: Finding | None = None

    @property
    def delta(self) -> float | None:
        """Value - dense value."""
        return None if self.value is None or self.dense_value is None else self.value - self.dense_value


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


def pair(dense: Sequence[Row], pruned: Sequence[Row]) -> Pairs | Finding:
    """Outcome rows of both models matched by example, or why they are not about the same examples."""
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
    )


def group(
    pairs: Pairs, columns: Sequence[str], defaults: Sequence[str] = (), least: int = 1
) -> tuple[dict[str, Index], tuple[Finding, ...]]:
    """Slice name -> positions of its examples, the whole first; and the columns that no example has.

    `defaults` are kinds of slices that no column names (see `default_slices`), of at least so many examples each.
    """
    groups: dict[str, Index] = {ALL: np.arange(len(pairs.slices))}
    known = {"label": pairs.label, "confidence": pairs.confidence, "length": pairs.length}
    groups |= default_groups(known, defaults, least)
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


def compare(
    pairs: Pairs, name: str, index: Index, *, metric: str, confidence: float, seed: int
) -> Comparison:
    """One slice in one metric; its random numbers are its own, so that other slices do not move it."""
    if len(index) == 0:
        return _cannot(name, index, "no_examples", "There are no examples. Check the dataset and its split.")
    rng = np.random.default_rng([seed, zlib.crc32(name.encode("utf-8", "surrogatepass"))])
    match metric:
        case "accuracy":
            found = _accuracy(pairs, name, index, confidence)
        case "f1":
            found = _macro_f1(pairs, name, index, confidence, rng)
        case "fidelity" if np.isfinite(pairs.distance).any():
            found = _embedding(pairs, name, index, confidence, rng)
        case "fidelity":
            found = _fidelity(pairs, name, index, confidence, rng)
        case "loss" | "perplexity":
            values = pairs.dense_loss[index], pairs.loss[index], pairs.tokens[index]
            found = _rise(pairs, name, index, metric, *values, confidence, rng)
        case "mse" | "mae":
            found = _regression(pairs, name, index, metric, confidence, rng)
        case _ if pairs.score_falls is not None:
            found = _own(pairs, name, index, metric, confidence, rng)
        case _:
            raise ValueError(
                f"there is no metric {metric!r}; known: accuracy, f1, fidelity, loss, mae, mse, perplexity"
            )
    if found.problem:
        return found
    mean, p99 = _divergence(pairs, index)
    return replace(found, kl_divergence=mean, kl_p99=p99, agreement=_agreement(pairs, index))


def _macro_f1(
    pairs: Pairs, name: str, index: Index, confidence: float, rng: np.random.Generator
) -> Comparison:
    labels, dense, pruned = (
        values[index] for values in (pairs.label, pairs.dense_prediction, pairs.prediction)
    )
    unknown = int((np.isnan(labels) | np.isnan(dense) | np.isnan(pruned)).sum())
    if unknown:
        message = f"{unknown} of {len(index)} examples have no label or no prediction. F1 needs both."
        return _cannot(name, index, "not_computable", message)
    samples, before, after = len(index), macro_f1(labels, dense), macro_f1(labels, pruned)
    low = high = bound = spread = None
    if samples > 1:
        draws = f1_drops(labels, dense, pruned, rng)
        low, high = bootstrap_bounds(draws, samples, (1 - confidence) / 2)
        bound, spread = bootstrap_bounds(draws, samples, 1 - confidence)[1], samples * float(draws.var())
    return Comparison(
        slice=name,
        samples=samples,
        dense_value=before,
        value=after,
        drop=before - after,
        ci_low=None if high is None else -high,
        ci_high=None if low is None else -low,
        drop_bound=bound,
        spread=spread,
        flips=int(((dense == labels) != (pruned == labels)).sum()),
    )


def _fidelity(
    pairs: Pairs, name: str, index: Index, confidence: float, rng: np.random.Generator
) -> Comparison:
    """Agreement with the dense model's most likely answers; the predictions of one example hang together."""
    changed, predictions = pairs.changed[index], _predictions(pairs, index)
    unknown = int(np.isnan(changed).sum())
    if unknown:
        message = (
            f"{unknown} of {len(index)} examples have no predictions of both models that can be compared. "
            "A model that yields NaN is broken."
        )
        return _cannot(name, index, "not_computable", message)
    samples, flips = len(index), int(changed.sum())
    drop = flips / float(predictions.sum())
    if flips == 0 or bool((predictions == 1).all()):
        low, high = tango_interval(flips, 0, samples, confidence)
        bound: float | None = tango_bound(flips, 0, samples, confidence)
        ends: tuple[float | None, float | None] = (max(0.0, low), high)
    else:
        low_end, high_end, bound = _bootstrap(changed, predictions, confidence, rng)
        ends = low_end, high_end
    return Comparison(
        slice=name,
        samples=samples,
        dense_value=1.0,
        value=1.0 - drop,
        drop=drop,
        ci_low=None if ends[1] is None else -ends[1],
        ci_high=None if ends[0] is None else -ends[0],
        drop_bound=bound,
        spread=_spread(changed, predictions),
        flips=flips,
    )


def _accuracy(pairs: Pairs, name: str, index: Index, confidence: float) -> Comparison:
    dense, pruned = pairs.dense_correct[index], pairs.correct[index]
    unknown = int((np.isnan(dense) | np.isnan(pruned)).sum())
    if unknown:
        message = f"{unknown} of {len(index)} examples are neither right nor wrong. Accuracy needs labels."
        return _cannot(name, index, "not_computable", message)
    samples = len(index)
    worse, better = int((dense > pruned).sum()), int((dense < pruned).sum())
    low, high = tango_interval(worse, better, samples, confidence)
    return Comparison(
        slice=name,
        samples=samples,
        dense_value=int(dense.sum()) / samples,
        value=int(pruned.sum()) / samples,
        drop=(worse - better) / samples,
        ci_low=-high,
        ci_high=-low,
        drop_bound=tango_bound(worse, better, samples, confidence),
        p_value=mcnemar_p(worse, better),
        spread=(worse + better) / samples,
        flips=worse + better,
    )


def _embedding(
    pairs: Pairs, name: str, index: Index, confidence: float, rng: np.random.Generator
) -> Comparison:
    """The mean cosine of the dense and the compressed embedding; the drop is their mean distance."""
    distances = pairs.distance[index]
    if unknown := int(np.isnan(distances).sum()):
        message = f"{unknown} of {len(index)} examples have an embedding with NaN. Such a model is broken."
        return _cannot(name, index, "not_computable", message)
    samples, drop = len(index), float(distances.mean())
    if drop == 0:
        low, high = tango_interval(0, 0, samples, confidence)
        ends: tuple[float | None, float | None] = (max(0.0, low), high)
        bound: float | None = tango_bound(0, 0, samples, confidence)
    else:
        low_end, high_end, bound = _bootstrap(distances, np.ones(samples), confidence, rng)
        ends = low_end, high_end
    return Comparison(
        slice=name,
        samples=samples,
        dense_value=1.0,
        value=1.0 - drop,
        drop=drop,
        ci_low=None if ends[1] is None else -ends[1],
        ci_high=None if ends[0] is None else -ends[0],
        drop_bound=bound,
        spread=float(distances.var()),
    )


def _regression(
    pairs: Pairs, name: str, index: Index, metric: str, confidence: float, rng: np.random.Generator
) -> Comparison:
    if np.isnan(pairs.dense_error[index]).all() and np.isnan(pairs.error[index]).all():
        message = f"The outcomes are not those of a model that predicts numbers, which {metric} is about."
        return _cannot(name, index, "not_computable", message)
    squares = pairs.dense_loss[index], pairs.loss[index]
    errors = pairs.dense_error[index], pairs.error[index]
    dense, pruned = squares if metric == "mse" else errors
    return _rise(pairs, name, index, metric, dense, pruned, np.ones(len(index)), confidence, rng)


def _own(
    pairs: Pairs, name: str, index: Index, metric: str, confidence: float, rng: np.random.Generator
) -> Comparison:
    """A user's own metric: the mean over examples, by points where it falls with harm, else by relative increase."""
    dense, pruned, ones = pairs.dense_score[index], pairs.score[index], np.ones(len(index))
    if not pairs.score_falls:
        found = _rise(pairs, name, index, metric, dense, pruned, ones, confidence, rng)
        return replace(found, falls=False)
    lost = dense - pruned
    if unknown := int(np.isnan(lost).sum()):
        message = f"{unknown} of {len(index)} examples have no finite {metric} for both models."
        return _cannot(name, index, "not_finite", message)
    low, high, bound = _bootstrap(lost, ones, confidence, rng)
    return Comparison(
        slice=name,
        samples=len(index),
        dense_value=math.fsum(dense) / len(index),
        value=math.fsum(pruned) / len(index),
        drop=math.fsum(lost) / len(index),
        ci_low=None if high is None else -high,
        ci_high=None if low is None else -low,
        drop_bound=bound,
        p_value=sign_flip_p(lost, rng),
        spread=float(lost.var()),
        falls=True,
    )


def _rise(
    pairs: Pairs,
    name: str,
    index: Index,
    metric: str,
    dense: Floats,
    pruned: Floats,
    tokens: Floats,
    confidence: float,
    rng: np.random.Generator,
) -> Comparison:
    """The relative increase of a mean over tokens, or over examples where each counts 1."""
    if metric == "loss" and np.isnan(tokens).all():
        tokens = np.ones(len(index))  # a classifier's loss is a mean over examples
    broken = ~(np.isfinite(dense) & np.isfinite(pruned))
    if broken.any():
        which = f"{int(broken.sum())} of {len(index)} examples have no finite {'loss' if metric == 'perplexity' else metric}"
        first = pairs.examples[int(index[broken.argmax()])]
        message = f"{which}, first example {first}. A model that yields NaN or infinity is broken."
        return _cannot(name, index, "not_finite", message)
    if not np.isfinite(tokens).all() or tokens.sum() <= 0:
        message = f"The outcomes count no predicted tokens, over which {metric} is a mean. Use accuracy."
        return _cannot(name, index, "not_computable", message)
    total = math.fsum(tokens)
    dense_mean, mean = math.fsum(dense) / total, math.fsum(pruned) / total
    is_perplexity = metric == "perplexity"
    dense_value, value = (_exp(dense_mean), _exp(mean)) if is_perplexity else (dense_mean, mean)
    if dense_value <= 0 or not math.isfinite(dense_value):
        message = f"The dense {metric} is {dense_value:g}, so that a relative change of it means nothing."
        return _cannot(name, index, "not_computable", message)
    base = tokens if is_perplexity else dense
    change = math.fsum(pruned - dense) / math.fsum(base)
    low, high, bound = _bootstrap(pruned - dense, base, confidence, rng)
    if is_perplexity:
        change = _expm1(change)
        low, high, bound = (None if end is None else _expm1(end) for end in (low, high, bound))
    return Comparison(
        slice=name,
        samples=len(index),
        dense_value=dense_value,
        value=value,
        drop=change,
        ci_low=None if low is None else low * dense_value,
        ci_high=None if high is None else high * dense_value,
        drop_bound=bound,
        p_value=sign_flip_p(pruned - dense, rng),
        spread=_spread(pruned - dense, base),
    )


def _bootstrap(
    numerator: Floats, denominator: Floats, confidence: float, rng: np.random.Generator
) -> tuple[float | None, float | None, float | None]:
    """Two-sided interval and one-sided upper bound of a ratio of sums; None for a single example."""
    samples = len(numerator)
    if samples < 2:
        return None, None, None
    draws = bootstrap_ratios(numerator, denominator, rng)
    if not np.isfinite(draws).all():
        return None, None, None
    low, high = bootstrap_bounds(draws, samples, (1 - confidence) / 2)
    return low, high, bootstrap_bounds(draws, samples, 1 - confidence)[1]


def _spread(numerator: Floats, denominator: Floats) -> float:
    """Variance of one example's share in a ratio of sums, by the delta method."""
    share = (numerator - denominator * (numerator.sum() / denominator.sum())) / denominator.mean()
    return float((share**2).mean())


def _divergence(pairs: Pairs, index: Index) -> tuple[float | None, float | None]:
    """Mean and 99th percentile of the KL divergence of every prediction; None unless all of them are known."""
    of_examples = [pairs.kl[position] for position in index]
    if not all(len(divergences) for divergences in of_examples):
        return None, None
    every = np.concatenate(of_examples)
    if not np.isfinite(every).all():
        return None, None
    return math.fsum(every) / len(every), float(np.quantile(every, 0.99, method="inverted_cdf"))


def _agreement(pairs: Pairs, index: Index) -> float | None:
    changed = pairs.changed[index]
    if np.isnan(changed).any():
        return None
    return 1.0 - float(changed.sum()) / float(_predictions(pairs, index).sum())


def _predictions(pairs: Pairs, index: Index) -> Floats:
    """How many predictions each example is made of; one where none are counted."""
    counted = pairs.tokens[index]
    return np.where(np.isnan(counted), 1.0, counted)


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


def _exp(value: float) -> float:
    return math.exp(value) if value < 709 else math.inf


def _expm1(value: float) -> float:
    return math.expm1(value) if value < 709 else math.inf


def _differ(what: str) -> Finding:
    message = (
        f"The two models were not measured on the same examples: {what}. Evaluate both again on one dataset."
    )
    return Finding(kind="examples_differ", subject=ALL, message=message)


def _cannot(name: str, index: Index, kind: str, message: str) -> Comparison:
    return Comparison(
        slice=name, samples=len(index), problem=Finding(kind=kind, subject=name, message=message)
    )

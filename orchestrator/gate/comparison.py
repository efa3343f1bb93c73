"""Pure. A compressed model beside its dense parent on the same examples: values, change, evidence by slice."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.gate.f1 import f1_evidence, macro_f1
from orchestrator.gate.inference import (
    Asked,
    Evidence,
    of_answers,
    of_changes,
    of_distances,
    of_ratio,
    of_scores,
)
from orchestrator.gate.pairing import Index, Pairs
from orchestrator.gate.statistics import Floats
from tasks.contract import Finding


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
    bound: float | None = None
    """One-sided upper bound of the drop."""
    p_value: float | None = None
    """One-sided: how likely at least this drop is where nothing changed; of fidelity: where the margin is just kept."""
    spread: float | None = None
    """Variance of one unit's change, for planning sample sizes; the flip rate for accuracy."""
    flips: int | None = None
    """Answers that turned right or wrong; for fidelity: predictions that changed."""
    worse: int | None = None
    better: int | None = None
    """Of accuracy: answers that turned wrong, and right."""
    units: int = 0
    """What is independent: examples, or clusters of them."""
    changed: int | None = None
    """Units whose result is another."""
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


def compare(
    pairs: Pairs,
    name: str,
    index: Index,
    *,
    metric: str,
    confidence: float,
    seed: int,
    alpha: float | None = None,
    margin: float | None = None,
) -> Comparison:
    """One slice in one metric; its random numbers are its own, so that other slices do not move it.

    `alpha` is the error of the bound, 1 - confidence if None; `margin` what the slice may lose.
    """
    if len(index) == 0:
        return _cannot(name, index, "no_examples", "There are no examples. Check the dataset and its split.")
    asked = Asked(
        confidence=confidence,
        alpha=1 - confidence if alpha is None else alpha,
        margin=margin,
        rng=np.random.default_rng([seed, zlib.crc32(name.encode("utf-8", "surrogatepass"))]),
        clusters=_clusters(pairs, index),
    )
    match metric:
        case "accuracy":
            found = _accuracy(pairs, name, index, asked)
        case "f1":
            found = _macro_f1(pairs, name, index, asked)
        case "fidelity" if np.isfinite(pairs.distance).any():
            found = _embedding(pairs, name, index, asked)
        case "fidelity":
            found = _fidelity(pairs, name, index, asked)
        case "loss" | "perplexity":
            values = pairs.dense_loss[index], pairs.loss[index], pairs.tokens[index]
            found = _rise(pairs, name, index, metric, *values, asked)
        case "mse" | "mae":
            found = _regression(pairs, name, index, metric, asked)
        case _ if pairs.score_falls is not None:
            found = _own(pairs, name, index, metric, asked)
        case _:
            raise ValueError(
                f"there is no metric {metric!r}; known: accuracy, f1, fidelity, loss, mae, mse, perplexity"
            )
    if found.problem:
        return found
    mean, p99 = _divergence(pairs, index)
    return replace(found, kl_divergence=mean, kl_p99=p99, agreement=_agreement(pairs, index))


def _clusters(pairs: Pairs, index: Index) -> Index | None:
    """The clusters of a slice, numbered from 0; None where each has one example only."""
    if pairs.clusters is None:
        return None
    known, codes = np.unique(pairs.clusters[index], return_inverse=True)
    return None if len(known) == len(index) else codes


def _macro_f1(pairs: Pairs, name: str, index: Index, asked: Asked) -> Comparison:
    labels, dense, pruned = (
        values[index] for values in (pairs.label, pairs.dense_prediction, pairs.prediction)
    )
    unknown = int((np.isnan(labels) | np.isnan(dense) | np.isnan(pruned)).sum())
    if unknown:
        message = f"{unknown} of {len(index)} examples have no label or no prediction. F1 needs both."
        return _cannot(name, index, "not_computable", message)
    before, after = macro_f1(labels, dense), macro_f1(labels, pruned)
    found = _fallen(name, index, before, after, before - after, f1_evidence(labels, dense, pruned, asked))
    return replace(found, flips=int(((dense == labels) != (pruned == labels)).sum()))


def _fidelity(pairs: Pairs, name: str, index: Index, asked: Asked) -> Comparison:
    """Agreement with the dense model's most likely answers; the predictions of one example hang together."""
    changed, predictions = pairs.changed[index], _predictions(pairs, index)
    unknown = int(np.isnan(changed).sum())
    if unknown:
        message = (
            f"{unknown} of {len(index)} examples have no predictions of both models that can be compared. "
            "A model that yields NaN is broken."
        )
        return _cannot(name, index, "not_computable", message)
    flips = int(changed.sum())
    drop = flips / float(predictions.sum())
    found = _fallen(name, index, 1.0, 1.0 - drop, drop, of_changes(changed, predictions, asked))
    return replace(found, flips=flips)


def _embedding(pairs: Pairs, name: str, index: Index, asked: Asked) -> Comparison:
    """The mean cosine of the dense and the compressed embedding; the drop is their mean distance."""
    distances = pairs.distance[index]
    if unknown := int(np.isnan(distances).sum()):
        message = f"{unknown} of {len(index)} examples have an embedding with NaN. Such a model is broken."
        return _cannot(name, index, "not_computable", message)
    drop = float(distances.mean())
    return _fallen(name, index, 1.0, 1.0 - drop, drop, of_distances(distances, asked))


def _accuracy(pairs: Pairs, name: str, index: Index, asked: Asked) -> Comparison:
    dense, pruned = pairs.dense_correct[index], pairs.correct[index]
    unknown = int((np.isnan(dense) | np.isnan(pruned)).sum())
    if unknown:
        message = f"{unknown} of {len(index)} examples are neither right nor wrong. Accuracy needs labels."
        return _cannot(name, index, "not_computable", message)
    samples, before, after = len(index), int(dense.sum()), int(pruned.sum())
    evidence = of_answers(dense, pruned, asked)
    found = _fallen(name, index, before / samples, after / samples, (before - after) / samples, evidence)
    return replace(found, flips=(evidence.worse or 0) + (evidence.better or 0))


def _regression(pairs: Pairs, name: str, index: Index, metric: str, asked: Asked) -> Comparison:
    if np.isnan(pairs.dense_error[index]).all() and np.isnan(pairs.error[index]).all():
        message = f"The outcomes are not those of a model that predicts numbers, which {metric} is about."
        return _cannot(name, index, "not_computable", message)
    squares = pairs.dense_loss[index], pairs.loss[index]
    errors = pairs.dense_error[index], pairs.error[index]
    dense, pruned = squares if metric == "mse" else errors
    return _rise(pairs, name, index, metric, dense, pruned, np.ones(len(index)), asked)


def _own(pairs: Pairs, name: str, index: Index, metric: str, asked: Asked) -> Comparison:
    """A user's own metric: the mean over examples, by points where it falls with harm, else by relative increase."""
    dense, pruned, ones = pairs.dense_score[index], pairs.score[index], np.ones(len(index))
    if not pairs.score_falls:
        found = _rise(pairs, name, index, metric, dense, pruned, ones, asked)
        return replace(found, falls=False)
    lost = dense - pruned
    if unknown := int(np.isnan(lost).sum()):
        message = f"{unknown} of {len(index)} examples have no finite {metric} for both models."
        return _cannot(name, index, "not_finite", message)
    before, after, drop = (math.fsum(values) / len(index) for values in (dense, pruned, lost))
    if np.isin([dense, pruned], (0.0, 1.0)).all():
        found = _fallen(name, index, before, after, drop, of_answers(dense, pruned, asked))
        return replace(found, falls=True, flips=(found.worse or 0) + (found.better or 0))
    return replace(_fallen(name, index, before, after, drop, of_scores(dense, pruned, asked)), falls=True)


def _fallen(name: str, index: Index, before: float, after: float, drop: float, found: Evidence) -> Comparison:
    """A metric that falls with harm, and changes by points."""
    return Comparison(
        slice=name,
        samples=len(index),
        dense_value=before,
        value=after,
        drop=drop,
        ci_low=None if found.high is None else -found.high,
        ci_high=None if found.low is None else -found.low,
        bound=found.bound,
        p_value=found.p_value,
        spread=found.spread,
        worse=found.worse,
        better=found.better,
        units=found.units,
        changed=found.changed,
    )


def _rise(
    pairs: Pairs,
    name: str,
    index: Index,
    metric: str,
    dense: Floats,
    pruned: Floats,
    tokens: Floats,
    asked: Asked,
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
    found = of_ratio(pruned - dense, base, asked)
    change = math.fsum(pruned - dense) / math.fsum(base)
    low, high, bound = found.low, found.high, found.bound
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
        bound=bound,
        p_value=found.p_value,
        spread=found.spread,
        units=found.units,
        changed=found.changed,
    )


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


def _exp(value: float) -> float:
    return math.exp(value) if value < 709 else math.inf


def _expm1(value: float) -> float:
    return math.expm1(value) if value < 709 else math.inf


def _cannot(name: str, index: Index, kind: str, message: str) -> Comparison:
    return Comparison(
        slice=name, samples=len(index), problem=Finding(kind=kind, subject=name, message=message)
    )

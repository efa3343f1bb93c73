"""Pure. Macro F1 of a classifier, and how much of it a compressed one loses, with resamples of the examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.gate.bootstrap import widened
from orchestrator.gate.inference import BOOTSTRAP_FROM, Asked, Evidence, Groups, unchanged_bound
from orchestrator.gate.resampling import Resamples, exchange_p
from orchestrator.gate.statistics import Floats


def macro_f1(labels: Floats, predictions: Floats) -> float:
    """The mean F1 of the classes that are a label or a prediction of some example.

    A class that is never right counts 0, one that does not occur counts not at all: `f1_score(average="macro")` of
    scikit-learn with zero_division=0.
    """
    tallies = tallied(labels, predictions, predictions, None)
    return float(_macro(tallies.times @ tallies.right, tallies.times @ tallies.total))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tallies:
    """What each unit, an example or a cluster, adds to the counts of every class; equal examples are one line."""

    times: Floats
    """[units]: how many there are of each."""
    right: Floats
    """[units, classes]: right answers of the dense model; `right_after`: of the compressed one."""
    total: Floats
    """[units, classes]: labels and answers of the dense model; `total_after`: of the compressed one."""
    right_after: Floats
    total_after: Floats

    def drops(self, counts: Floats, exchanged: Floats | None = None) -> Floats:
        """Macro F1 lost by each row of counts [draws, units]; units that are `exchanged` change the two models."""
        kept = counts if exchanged is None else counts - exchanged
        before = [kept @ self.right, kept @ self.total]
        after = [kept @ self.right_after, kept @ self.total_after]
        if exchanged is not None:
            before = [before[0] + exchanged @ self.right_after, before[1] + exchanged @ self.total_after]
            after = [after[0] + exchanged @ self.right, after[1] + exchanged @ self.total]
        return _macro(*before) - _macro(*after)

    def left_out(self) -> Floats:
        """Macro F1 lost without one of each unit."""
        before = _macro(self.times @ self.right - self.right, self.times @ self.total - self.total)
        after = (
            self.times @ self.right_after - self.right_after,
            self.times @ self.total_after - self.total_after,
        )
        return before - _macro(*after)


def f1_evidence(labels: Floats, dense: Floats, pruned: Floats, asked: Asked) -> Evidence:
    """What is lost of the macro F1: BCa by drawn resamples of the examples or clusters.

    The test exchanges the two models' answers with fewer than 200 of them, and is the bootstrap's above.
    """
    tallies = tallied(labels, dense, pruned, asked.clusters)
    differs = (tallies.right != tallies.right_after) | (tallies.total != tallies.total_after)
    size, changed = int(tallies.times.sum()), int(tallies.times[differs.any(axis=1)].sum())
    if size < 2:
        return Evidence(units=size, changed=changed, p_value=1.0)
    least, side = unchanged_bound(size, asked.alpha), (1 - asked.confidence) / 2
    if not changed:
        width = unchanged_bound(size, side)
        return Evidence(units=size, changed=0, low=-width, high=width, bound=least, p_value=1.0, spread=0.0)
    resamples = resampled(tallies, asked.rng)
    low, high, bound = (
        resamples.end(z) for z in (-widened(side, size), widened(side, size), widened(asked.alpha, size))
    )
    return Evidence(
        units=size,
        changed=changed,
        low=low,
        high=high,
        bound=None if bound is None else max(bound, least),
        p_value=_exchanged(tallies, asked.rng) if size < BOOTSTRAP_FROM else resamples.p_value(),
        spread=size * float(resamples.plain.var()),
    )


def resampled(tallies: Tallies, rng: np.random.Generator) -> Resamples:
    """The macro F1 lost in resamples of the units."""
    observed = float(tallies.drops(tallies.times))
    influence = observed - tallies.left_out()
    return Resamples(
        statistic=tallies.drops, times=tallies.times, influence=influence, observed=observed, rng=rng
    )


def _exchanged(tallies: Tallies, rng: np.random.Generator) -> float:
    """How often as much is lost where each unit's answers are either model's with even chances."""
    observed = float(tallies.drops(tallies.times))
    of_one = tallies.drops(np.tile(tallies.times, (len(tallies.times), 1)), np.eye(len(tallies.times)))
    return exchange_p(
        lambda exchanged: tallies.drops(tallies.times, exchanged),
        tallies.times,
        observed - of_one,
        observed,
        rng,
    )


def tallied(labels: Floats, dense: Floats, pruned: Floats, clusters: Groups | None) -> Tallies:
    """Examples [examples], or clusters of them, as counts of classes."""
    classes, codes = np.unique(np.concatenate([labels, dense, pruned]), return_inverse=True)
    lines = codes.reshape(3, len(labels))
    if clusters is None:
        lines, found = np.unique(lines, axis=1, return_counts=True)
        times, clusters = found.astype(np.float64), np.arange(len(found))
    else:
        times = np.ones(int(clusters.max()) + 1)
    asked, before, after = lines

    def counted(classes_of: Groups, weights: Floats) -> Floats:
        table = np.zeros((len(times), len(classes)))
        np.add.at(table, (clusters, classes_of), weights)
        return table

    each = np.ones(len(asked))
    labelled = counted(asked, each)
    return Tallies(
        times=times,
        right=counted(asked, (asked == before).astype(np.float64)),
        total=labelled + counted(before, each),
        right_after=counted(asked, (asked == after).astype(np.float64)),
        total_after=labelled + counted(after, each),
    )


def _macro(right: Floats, total: Floats) -> Floats:
    """Macro F1 of each row of counts [..., classes]."""
    scores = np.divide(2 * right, total, out=np.zeros_like(total), where=total > 0)
    means: Floats = scores.sum(axis=-1) / np.maximum(1, (total > 0).sum(axis=-1))
    return means

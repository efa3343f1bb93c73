"""Outcomes of models drawn at random, whose true loss is known in every metric; alone, or in documents that turn as one."""

from __future__ import annotations

import functools

import numpy as np
from cases.verdicts import answer

from orchestrator.gate.f1 import macro_f1
from orchestrator.gate.gates import Gates, judge

METRICS = ("accuracy", "exact_match", "rouge", "f1", "perplexity", "mae", "fidelity", "embedding")
FLIPS = 0.03
"""Right to wrong, and as often wrong to right, where nothing is harmed."""


def verdict_of(metric, rng, documents, size, drop, *, margin=None, look=None):
    """What the gate says of one drawn model of so many documents of `size` examples that loses `drop`."""
    dense, pruned = outcomes(metric, rng, documents, size, drop)
    gates = Gates(max_drop=lost(metric, drop) if margin is None else margin, look=look)
    own = {"embedding": "fidelity"}.get(metric, metric)
    found = judge(
        dense, pruned, dataset="drawn", metric=own, slices=(), gates=gates, seed=int(rng.integers(2**31)),
        cluster="document" if size > 1 else None,
    )  # fmt: skip
    return found.verdicts[0]["verdict"]


@functools.cache
def lost(metric, drop):
    """What the gate is to find of a drop; of F1, whose share of spoilt answers is given, by very many examples."""
    if metric != "f1":
        return drop
    labels, dense, pruned = _classes(np.random.default_rng(0), np.arange(1_000_000), drop)
    return macro_f1(labels, dense) - macro_f1(labels, pruned)


def outcomes(metric, rng, documents, size, drop):
    """Rows of the dense and of the compressed model."""
    document = np.repeat(np.arange(documents), size)
    rows = range(len(document))
    common = [{"example": i, "slices": {"document": str(document[i])}} for i in rows]
    if metric == "f1":
        labels, *found = _classes(rng, document, drop)
        return tuple([
            {**common[i], "label": int(labels[i]), "prediction": int(answers[i]), "correct": bool(answers[i] == labels[i])}
            for i in rows
        ] for answers in found)  # fmt: skip
    columns = {"dense": {}, "pruned": {}}
    noise = rng.normal(size=documents)[document]
    match metric:
        case "accuracy" | "exact_match":
            chances = [FLIPS, 1 - 2 * FLIPS - drop, FLIPS + drop]
            turned = rng.choice([-1, 0, 1], size=documents, p=chances)[document]
            was = np.where(turned == 0, rng.random(len(document)) < 0.8, turned > 0)
            columns = _both("score", was.astype(float), was - turned, score_falls=True)
        case "rouge":
            columns = _both("score", np.full(len(document), 0.5), 0.5 - drop + 0.1 * noise, score_falls=True)
        case "perplexity":
            tokens = rng.integers(20, 100, len(document))
            per_token = np.log1p(drop) + 0.1 * noise
            columns = _both("loss", 2.0 * tokens, (2.0 + per_token) * tokens)
            for side in columns.values():
                side["tokens"] = tokens
        case "mae":
            columns = _both("absolute_error", np.ones(len(document)), np.abs(1 + drop + 0.2 * noise))
        case "fidelity":
            changed = (rng.random(documents) < drop)[document]
            columns = _both("prediction", np.zeros(len(document)), changed.astype(float))
        case "embedding":
            columns["pruned"] = {"distance": (drop / 3 * rng.gamma(3.0, size=documents))[document]}
    dense, pruned = (_rows(common, columns[side]) for side in ("dense", "pruned"))
    if metric == "accuracy":
        return tuple(
            [answer(row["example"], bool(row["score"]), **row["slices"]) for row in rows]
            for rows in (dense, pruned)
        )
    return dense, pruned


def _both(column, dense, pruned, **fixed):
    return {side: {column: values, **fixed} for side, values in (("dense", dense), ("pruned", pruned))}


def _rows(common, columns):
    return [
        {**row, **{name: _plain(values, i) for name, values in columns.items()}}
        for i, row in enumerate(common)
    ]


def _plain(values, index):
    return values if isinstance(values, bool) else values[index].item()


def _classes(rng, document, spoilt):
    """Labels, a dense model's classes, and those of one that answers class 0 for a share of the documents."""
    documents = int(document.max()) + 1
    labels = rng.choice(3, size=documents, p=[0.5, 0.3, 0.2])[document]
    dense = np.where(rng.random(len(document)) < 0.1, rng.integers(0, 3, len(document)), labels)
    pruned = np.where((rng.random(documents) < spoilt)[document], 0, dense)
    return labels.astype(float), dense.astype(float), pruned.astype(float)

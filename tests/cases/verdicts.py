"""Outcomes of dense and pruned models, and what the gate says of them."""

from __future__ import annotations

from orchestrator.gate.gates import Gates, judge

GATES = Gates(max_drop=0.10, max_slice_drop=0.20, min_samples=3)


WHOLE = Gates(max_drop=0.10, min_samples=3)


def text(example, loss, *, tokens=10, **slices):
    return {"example": example, "loss": loss, "tokens": tokens, "slices": slices}


def answer(example, correct, *, probabilities=None, **slices):
    return {
        "example": example,
        "loss": 0.5,
        "label": 1,
        "prediction": int(correct),
        "correct": correct,
        "probabilities": probabilities,
        "slices": slices,
    }


def answers(right, samples, start=0, **slices):
    return [answer(start + i, i < right, **slices) for i in range(samples)]


def judged(dense, pruned, *, metric="accuracy", slices=(), gates=WHOLE, seed=0):
    gates = GATES if slices and gates is WHOLE else gates
    return judge(dense, pruned, dataset="held-out", metric=metric, slices=slices, gates=gates, seed=seed)


def overall(result):
    (row,) = [row for row in result.verdicts if row["gate"] == "overall"]
    return row


def kinds(result):
    return [finding.kind for finding in result.findings]

"""Effects. Questions with several answers: which of them a language model finds likeliest, as benchmarks of knowledge ask.

Each answer is appended to the text; its score is the sum of the log-probabilities of its tokens. Blanks at the end of the text
belong to the answer, and of what is too long the beginning is left out. This is how the accuracy of multiple-choice tasks is
defined by EleutherAI's lm-evaluation-harness.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tasks.contract import BadInput, Finding, Product, Row, Work
from tasks.examples.asking import next_tokens
from tasks.examples.batches import asked_of, batches, logits_of
from tasks.examples.data import Example, read
from tasks.examples.fitting import Fitted, Item
from tasks.examples.tokenizing import Answered, answered, longest_text
from tasks.loading.families import CAUSAL_LM
from tasks.loading.models import Model
from tasks.measuring.tokenlosses import summed_losses


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """One answer to one question as the model sees it."""

    example: int
    """Index among the examples."""
    tokens: Answered


def run_choices(work: Work, model: Model) -> Product:
    """One `outcomes` row for each question: the answer that the model chose, and whether it is the right one.

    `probabilities` are those of the answers given that it is one of them; `loss` is minus the logarithm of that of the right one.
    Errors: BadInput, if the data does not fit the model, or the metric is fidelity.
    """
    dataset = work.datasets["evaluation"]
    if model.family != CAUSAL_LM or work.params.get("fidelity"):
        why = (
            "the metric fidelity" if work.params.get("fidelity") else f"a model of the family {model.family}"
        )
        raise BadInput(
            "questions with answers do not fit",
            why=f"they are for language models and the metrics accuracy, f1 and loss, and not for {why}",
            do="Match the recipe with other models, or give it another metric or data set.",
            file=str(dataset.path),
        )
    examples = read(dataset).members
    asked = list(_asked(examples, model))
    scores = _scores(model, asked)
    found: dict[int, list[float]] = {index: [] for index in range(len(examples))}
    for one, score in zip(asked, scores, strict=True):
        found[one.example].append(score)
    rows = [_row(example, found[index]) for index, example in enumerate(examples)]
    findings = _findings(dataset.path.name, asked, rows, longest_text(model))
    return Product(tables={"outcomes": rows}, findings=(*model.findings, *findings))


def _asked(examples: Sequence[Example], model: Model) -> Iterator[_Asked]:
    pairs = [(index, choice) for index, example in enumerate(examples) for choice in example.choices]
    tokens = answered([(examples[index], choice) for index, choice in pairs], model)
    for (index, _), own in zip(pairs, tokens, strict=True):
        yield _Asked(example=index, tokens=own)


def _scores(model: Model, asked: Sequence[_Asked]) -> list[float]:
    """The log-probability of each answer."""
    items = tuple(
        Item(
            number=at,
            slices={},
            content=one.tokens.ids,
            targets=next_tokens(one.tokens.ids, one.tokens.context),
        )
        for at, one in enumerate(asked)
    )
    found = np.zeros(len(items))
    for batch in batches(Fitted(items=items), model):
        with torch.inference_mode():
            losses = summed_losses(logits_of(model, batch), asked_of(batch))
        found[list(batch.positions)] = -losses.numpy()
    return [float(score) for score in found]


def _row(example: Example, scores: Sequence[float]) -> Row:
    assert isinstance(example.label, int), "the reader has checked it"
    row: dict[str, object] = {
        "example": example.number,
        "slices": dict(example.slices),
        "loss": None,
        "tokens": 1,
        "label": example.label,
    }
    if not all(map(math.isfinite, scores)):
        return row
    known = torch.tensor(scores, dtype=torch.float64).log_softmax(0)
    chosen = int(np.argmax(scores))
    return row | {
        "loss": -float(known[example.label]),
        "prediction": chosen,
        "correct": chosen == example.label,
        "probabilities": known.exp().tolist(),
    }


def _findings(file: str, asked: Sequence[_Asked], rows: Sequence[Row], limit: int) -> Iterator[Finding]:
    cut = len({one.example for one in asked if one.tokens.is_cut})
    if cut:
        message = (
            f"{cut} of {len(rows)} questions are longer than {limit} tokens; their beginning is left out"
        )
        yield Finding(kind="truncated_examples", subject=file, message=message)
    broken = sum(row["loss"] is None for row in rows)
    if broken:
        message = f"the scores of {broken} of {len(rows)} questions are NaN or infinite; no verdict can rest on them"
        yield Finding(kind="non_finite_loss", subject=file, message=message)

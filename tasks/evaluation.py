"""Effects. The evaluate task: what a model makes of every example, dense or pruned alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch.nn.functional import cross_entropy

from tasks.contract import BadInput, Dataset, Finding, Product, Row, Work
from tasks.examples.asking import NOT_ASKED
from tasks.examples.batches import Batch, asked_of, batches, logits_of
from tasks.examples.data import read
from tasks.examples.embeddings import cosine_distances
from tasks.examples.fitting import Item, fit
from tasks.loading.families import answer_of
from tasks.loading.models import Model, load
from tasks.measuring.choices import run_choices
from tasks.measuring.fidelity import Shift, shifts
from tasks.measuring.tokenlosses import summed_losses

MAX_LISTED_LABELS = 64
"""With more labels than these, the probabilities are left out of the rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a model made of the members of a batch; on the CPU."""

    losses: torch.Tensor
    """float64 [members]: cross entropy, summed over the predicted tokens of a text, or the mean squared error of a
    regression; NaN without a label."""
    tokens: tuple[int, ...]
    """Predictions that make up each loss; 1 for a classifier."""
    logits: torch.Tensor | None = None
    """float32 [members, labels] of a classifier."""
    numbers: torch.Tensor | None = None
    """float64 [members, numbers] of a regression."""


def run(work: Work) -> Product:
    """One `outcomes` row for each example; a loss that is not finite is null, and said so.

    With the param `fidelity` no label is looked at, and where there is a dense model too (`work.dense`), each row says
    how far the predictions are from that model's: `kl` and `flips` (see `tasks.measuring.fidelity`), or for a model without a head
    `distance` (see `tasks.examples.embeddings`). With the param `lengths` each
    row of a text says how many tokens the model saw. Questions with several answers: see `tasks.measuring.choices`.
    Errors: BadInput, if the data set does not fit the model.
    """
    model = load(work.model, work.device)
    if work.datasets["evaluation"].kind == "choices":
        return run_choices(work, model)
    dense = load(work.dense, work.device) if work.dense else None
    label_free = bool(work.params.get("fidelity"))
    _check_metric(model, label_free)
    fitted = fit(read(work.datasets["evaluation"]), model, labelled=not label_free)
    rows: dict[int, dict[str, Any]] = {}
    for batch in batches(fitted, model):
        scores, shifted = _measure(model, dense, batch)
        for index, position in enumerate(batch.positions):
            rows[position] = _outcome(fitted.items[position], scores, index)
            rows[position] |= shifted[index] if shifted else {}
            if work.params.get("lengths"):
                rows[position]["length"] = batch.lengths[index]
    in_file_order = [rows[position] for position in range(len(fitted.items))]
    told = in_file_order if answer_of(model.family) == "tokens" or not label_free else ()
    findings = (*model.findings, *fitted.findings, *_not_finite(told, work.datasets["evaluation"]))
    return Product(tables={"outcomes": in_file_order}, findings=findings)


def score(model: Model, batch: Batch) -> Scores:
    """The losses of a batch, in float32 whatever the model's dtype."""
    with torch.inference_mode():
        return scores_of(model, logits_of(model, batch), batch)


def _check_metric(model: Model, label_free: bool) -> None:
    answer = answer_of(model.family)
    if answer == "numbers" and label_free:
        _refuse(model, "predicts numbers, for which fidelity is not defined", "Use the metric mse or mae.")
    if answer == "embedding" and not label_free:
        _refuse(model, "has no head, so it has no loss and no predictions", "Use the metric fidelity.")


def _refuse(model: Model, why: str, do: str) -> NoReturn:
    raise BadInput(
        "the metric does not fit the model", why=f"a model of the family {model.family} {why}", do=do
    )


def _measure(model: Model, dense: Model | None, batch: Batch) -> tuple[Scores, list[dict[str, Any]]]:
    with torch.inference_mode():
        logits = logits_of(model, batch)
        scores = scores_of(model, logits, batch)
        return scores, [] if dense is None else _shifts(model, logits_of(dense, batch), logits, batch)


def _shifts(model: Model, dense: torch.Tensor, pruned: torch.Tensor, batch: Batch) -> list[dict[str, Any]]:
    """What each member's row says of the way from the dense model's answer to the pruned one's."""
    if answer_of(model.family) == "embedding":
        distances = cosine_distances(dense, pruned).tolist()
        return [{"distance": None if math.isnan(distance) else distance} for distance in distances]
    return [_shift_columns(shift) for shift in shifts(dense, pruned, batch)]


def scores_of(model: Model, logits: torch.Tensor, batch: Batch) -> Scores:
    """What the answers to a batch are worth; the losses lead back to the logits where gradients are kept."""
    answer = answer_of(model.family)
    if answer == "tokens":
        return _score_texts(logits, batch)
    if answer == "embedding":
        unknown = torch.full((len(batch.positions),), math.nan, dtype=torch.float64)
        return Scores(losses=unknown, tokens=(1,) * len(batch.positions))
    if answer == "numbers":
        return _score_numbers(logits, batch)
    logits = logits.float()
    if batch.labels is None:
        losses = torch.full((len(batch.positions),), math.nan, dtype=torch.float64)
    else:
        losses = cross_entropy(logits, batch.labels, reduction="none").double().cpu()
    return Scores(losses=losses, tokens=(1,) * len(batch.positions), logits=logits.cpu())


def _score_numbers(answers: torch.Tensor, batch: Batch) -> Scores:
    numbers = answers.double().reshape(len(batch.positions), -1)
    if batch.labels is None:
        losses = torch.full((len(batch.positions),), math.nan, dtype=torch.float64)
    else:
        losses = (numbers - batch.labels).square().mean(1).cpu()
    return Scores(losses=losses, tokens=(1,) * len(batch.positions), numbers=numbers.cpu())


def _score_texts(logits: torch.Tensor, batch: Batch) -> Scores:
    targets = asked_of(batch)
    counts = (targets != NOT_ASKED).sum(1).tolist()
    return Scores(losses=summed_losses(logits, targets), tokens=tuple(counts))


def _shift_columns(shift: Shift) -> dict[str, Any]:
    return {"kl": list(shift.kl), "flips": shift.flips}


def _outcome(item: Item, scores: Scores, index: int) -> dict[str, Any]:
    loss = float(scores.losses[index])
    row: dict[str, Any] = {
        "example": item.number,
        "slices": dict(item.slices),
        "loss": loss if math.isfinite(loss) else None,
        "tokens": scores.tokens[index],
    }
    if scores.numbers is not None and item.label is not None:
        error = (scores.numbers[index] - torch.tensor(item.label, dtype=torch.float64)).abs().mean()
        row["absolute_error"] = float(error) if math.isfinite(error) else None
        if scores.numbers.shape[1] <= MAX_LISTED_LABELS:
            assert isinstance(item.label, tuple)
            row |= {"target": list(item.label), "answer": scores.numbers[index].tolist()}
    if scores.logits is None:
        return row
    row["label"] = item.label
    logits = scores.logits[index]
    if not bool(logits.isnan().any()):
        row["prediction"] = int(logits.argmax())
        if item.label is not None:
            row["correct"] = row["prediction"] == item.label
        if len(logits) <= MAX_LISTED_LABELS:
            row["probabilities"] = logits.softmax(0).tolist()
    return row


def _not_finite(rows: Sequence[Row], dataset: Dataset) -> Iterator[Finding]:
    count = sum(row["loss"] is None for row in rows)
    if count:
        message = (
            f"the loss of {count} of {len(rows)} examples is NaN or infinite; no verdict can rest on them"
        )
        yield Finding(kind="non_finite_loss", subject=dataset.path.name, message=message)

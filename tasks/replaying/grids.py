"""Effects. The real loss over the calibration data with one thing changed at a time, beside the dense model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.contract import BadInput, Finding, Row, Work
from tasks.evaluation import Scores
from tasks.examples.batches import batches
from tasks.examples.data import Examples
from tasks.examples.fitting import Fitted
from tasks.loading.families import answer_of
from tasks.loading.models import Model, load
from tasks.measuring.differences import Sums, difference, mean_loss
from tasks.replaying.chains import chain_of, survey
from tasks.replaying.replay import Replay

METHOD = "exact"
"""Every cell of the grid is measured on every example."""

Trial = tuple[float, AbstractContextManager[None]]
"""An amount, and what makes the model one in which so much is gone, for as long as it is entered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is changed on its own, by several amounts."""

    columns: Mapping[str, Any]
    """Of its rows: `layer`, `group`, `criterion`, `pattern`, `parameters`."""
    weights: tuple[str, ...]
    """All that its trials change; what runs before the first of them need not run again."""
    trials: Callable[[], Iterator[Trial]]

    @property
    def parameters(self) -> int:
        """As its rows say."""
        return int(self.columns["parameters"])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """The dense model's losses, and the way to those of a changed one."""

    replay: Replay
    stages: Sequence[int]
    """By target: how many blocks a trial of it can skip."""
    dense: Sums
    tokens: Sums


def model_with_loss(work: Work) -> Model:
    """The model of a unit; BadInput if it has no loss."""
    model = load(work.model, work.device)
    if answer_of(model.family) == "embedding":
        raise BadInput(
            "the sensitivity cannot be measured",
            why=f"a model of the family {model.family} has no head, so it has no loss",
            do="Leave the sensitivity step out, and use the allocation uniform, erk or owl.",
        )
    return model


def measured(
    model: Model, examples: Examples, fitted: Fitted, targets: Sequence[Target]
) -> tuple[list[Row], list[Finding]]:
    """Rows of `sensitivity` for each trial of each target, in their order, and what a reader must know of them.

    Errors: BadInput, if the dense loss is not finite.
    """
    grid = _grid(model, targets, fitted)
    _check_dense(grid.dense, examples, fitted)
    rows: dict[int, list[Row]] = {}
    findings: list[Finding] = []
    for index in sorted(range(len(targets)), key=grid.stages.__getitem__):
        grid.replay.move_to(grid.stages[index])
        rows[index] = [_row(grid, targets[index], *trial) for trial in targets[index].trials()]
        findings.extend(_doubts(targets[index], rows[index]))
    findings.extend(_full_runs(model, grid.replay))
    return [row for index in range(len(targets)) for row in rows[index]], findings


def _grid(model: Model, targets: Sequence[Target], fitted: Fitted) -> _Grid:
    members = list(batches(fitted, model))
    chain = chain_of(model, members[-1])
    dense, first_uses = survey(model, chain, members)
    parameters = dict(model.module.named_parameters(remove_duplicate=False))
    stages = [
        min(
            (first_uses.get(id(parameters[name]), 0) for name in target.weights if name in parameters),
            default=0,
        )
        for target in targets
    ]
    replay = Replay(model=model, batches=members, dense=dense, chain=chain, stages=sorted(set(stages)))
    tokens = np.zeros(len(fitted.items))
    for batch, scores in zip(members, dense, strict=True):
        tokens[list(batch.positions)] = scores.tokens
    return _Grid(replay=replay, stages=stages, dense=_in_file_order(replay, dense), tokens=tokens)


def _in_file_order(replay: Replay, scores: Sequence[Scores]) -> Sums:
    losses = np.zeros(sum(len(batch.positions) for batch in replay.batches))
    for batch, score in zip(replay.batches, scores, strict=True):
        losses[list(batch.positions)] = score.losses.numpy()
    return losses


def _check_dense(dense: Sums, examples: Examples, fitted: Fitted) -> None:
    broken = np.flatnonzero(~np.isfinite(dense))
    if broken.size:
        number = fitted.items[broken[0]].number
        raise examples.members[number].place.refusal(
            "the dense model's loss is not finite",
            why=f"it is {dense[broken[0]]} on this example, and so on {broken.size} of {dense.size}",
            do="Run the model in a wider dtype, or leave the example out.",
        )


def _row(grid: _Grid, target: Target, amount: float, change: AbstractContextManager[None]) -> Row:
    with change:
        scores = [grid.replay.score(index) for index in range(len(grid.replay.batches))]
    losses = _in_file_order(grid.replay, scores)
    row = {
        **target.columns,
        "amount": amount,
        "metric": "loss",
        "dense_value": mean_loss(grid.dense, grid.tokens),
        "samples": len(losses),
        "tokens": int(grid.tokens.sum()),
        "method": METHOD,
    }
    if np.isfinite(losses).all():
        found = difference(losses, grid.dense, grid.tokens)
        row |= {"value": mean_loss(losses, grid.tokens), "delta": found.delta, "stderr": found.stderr}
    return row


def _doubts(target: Target, rows: Sequence[Row]) -> Iterator[Finding]:
    """What a reader must not take for robustness, or for harm measured."""
    without_effect = [row["amount"] for row in rows if row.get("delta") == 0 and row["amount"] > 0]
    if without_effect:
        message = f"pruning it at {_listed(without_effect)} leaves the loss exactly as it was"
        yield Finding(kind="zero_effect", subject=target.columns["layer"], message=message)
    broken = [row["amount"] for row in rows if row.get("delta") is None]
    if broken:
        message = f"pruned at {_listed(broken)} it gives losses that are NaN or infinite; they are left empty"
        yield Finding(kind="non_finite_loss", subject=target.columns["layer"], message=message)


def _listed(amounts: Sequence[float]) -> str:
    return ", ".join(f"{amount:g}" for amount in amounts)


def _full_runs(model: Model, replay: Replay) -> Iterator[Finding]:
    subject = type(model.module).__name__
    if not replay.chain or replay.problem:
        why = replay.problem or "it has no list of blocks that are called once each in order"
        message = f"each trial runs the whole model: {why}"
        yield Finding(kind="no_prefix_reuse", subject=subject, message=message)
    elif replay.left_out:
        message = (
            f"{len(replay.left_out)} of {len(replay.batches)} batches run the whole model for lack of memory"
        )
        yield Finding(kind="no_prefix_reuse", subject=subject, message=message)

"""Effects. The sensitivity task: the real loss with one layer pruned at a time, at each amount of the grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.batches import batches
from tasks.chains import chain_of, survey
from tasks.contract import BadInput, Finding, Product, Row, Work
from tasks.coverage import expert_tokens, fitting
from tasks.criteria import Criterion, criterion_named
from tasks.data import Examples, read
from tasks.differences import Sums, difference, mean_loss
from tasks.evaluation import Scores
from tasks.families import answer_of
from tasks.fitting import Fitted, fit
from tasks.gathering import Gathered, gathered, statistics_for
from tasks.hessians import hessians
from tasks.models import Layer, Model, load, weight_in
from tasks.patterns import kept_of_group
from tasks.recipes import bad_recipe
from tasks.replay import Replay
from tasks.selection import select_layers
from tasks.trials import Trials, part_of, replaced

METHOD = "exact"
"""Every cell of the grid is measured on every example."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """The dense model's losses, and the way to those of a pruned one."""

    model: Model
    trials: Trials
    replay: Replay
    stages: dict[str, int]
    """By layer: how many blocks a trial of it can skip."""
    dense: Sums
    tokens: Sums


def run(work: Work) -> Product:
    """One `sensitivity` row for each layer of this part and each amount; N:M has the one amount that it implies.

    Errors: BadInput, if the data set does not fit the model, or the dense loss on it is not finite.
    """
    if work.params["scope"] == "model":
        raise bad_recipe("scope model ranks all layers at once, and a trial prunes one of them")
    model = load(work.model, work.device)
    if answer_of(model.family) == "embedding":
        raise BadInput(
            "the sensitivity cannot be measured",
            why=f"a {model.family} has no head, so it has no loss",
            do="Leave the sensitivity step out, and use the allocation uniform, erk or owl.",
        )
    selection = select_layers(model, work.params["pattern"], work.params["skip"])
    criterion = criterion_named(work.params["criterion"], work.seed)
    selection = fitting(selection, criterion, work.params["criterion"])
    findings = [*model.findings, *selection.findings] if work.part == 0 else []
    layers = part_of(selection.layers, work.part, work.parts)
    if not layers:
        return Product(tables={"sensitivity": ()}, findings=findings)
    examples = read(work.datasets["calibration"])
    fitted = fit(examples, model)
    findings.extend(fitted.findings)
    seen = Gathered()
    if criterion.needs_data or any(layer.place for layer in layers):
        least = int(work.params.get("min_tokens", 1))
        layers, seen = _calibrate(criterion, model, layers, fitted, least, findings)
    trials = _trials(model, work, criterion, layers, fitted, seen)
    grid = _grid(model, trials, layers, fitted)
    _check_dense(grid.dense, examples, fitted)
    rows: dict[str, list[Row]] = {}
    for layer in sorted(layers, key=lambda layer: grid.stages[layer.name]):
        rows[layer.name] = list(_measure(grid, layer, str(work.params["criterion"])))
        findings.extend(_doubts(layer, rows[layer.name]))
    findings.extend((*_full_runs(grid), *seen.findings()))
    in_model_order = [row for layer in layers for row in rows[layer.name]]
    return Product(tables={"sensitivity": in_model_order}, findings=findings)


def _calibrate(
    criterion: Criterion,
    model: Model,
    layers: Sequence[Layer],
    fitted: Fitted,
    least: int,
    findings: list[Finding],
) -> tuple[tuple[Layer, ...], Gathered]:
    """The layers that enough tokens reach, and what the criterion asks for about them.

    An expert that no token reaches would seem to stand any pruning, whatever it is scored by.
    """
    statistics = statistics_for(criterion, model, layers, fitted)
    findings.extend(expert_tokens(layers, statistics.tokens))
    for layer in layers:
        count = statistics.tokens.get(layer.name, 0)
        if count < least:
            why = (
                f"{count} calibration tokens reach it, fewer than {least}"
                if count
                else "no calibration example reaches it, so it has no scores"
            )
            findings.append(
                Finding(kind="skipped_layer", subject=layer.name, message=f"{why} and is not tried")
            )
    reached = tuple(layer for layer in layers if statistics.tokens.get(layer.name, 0) >= least)
    return reached, gathered(criterion, statistics, model, reached, fitted)


def _trials(
    model: Model, work: Work, criterion: Criterion, layers: Sequence[Layer], fitted: Fitted, seen: Gathered
) -> Trials:
    pattern = work.params["pattern"]
    groups = kept_of_group(pattern)
    return Trials(
        criterion=criterion,
        pattern=pattern,
        scope=work.params["scope"],
        amounts=work.params["grid"] if groups is None else [1 - groups[0] / groups[1]],
        seen_by=seen.of,
        matrices=hessians(model, layers, fitted) if criterion.reconstructs else None,
    )


def _grid(model: Model, trials: Trials, layers: Sequence[Layer], fitted: Fitted) -> _Grid:
    members = list(batches(fitted, model))
    chain = chain_of(model, members[-1])
    dense, first_uses = survey(model, chain, members)
    stages = {layer.name: first_uses.get(id(model.module.get_parameter(layer.weight)), 0) for layer in layers}
    replay = Replay(
        model=model, batches=members, dense=dense, chain=chain, stages=sorted(set(stages.values()))
    )
    tokens = np.zeros(len(fitted.items))
    for batch, scores in zip(members, dense, strict=True):
        tokens[list(batch.positions)] = scores.tokens
    return _Grid(
        model=model,
        trials=trials,
        replay=replay,
        stages=stages,
        dense=_in_file_order(replay, dense),
        tokens=tokens,
    )


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


def _measure(grid: _Grid, layer: Layer, criterion: str) -> Iterator[Row]:
    grid.replay.move_to(grid.stages[layer.name])
    module = grid.model.module
    dense_value = mean_loss(grid.dense, grid.tokens)
    for amount, weight in grid.trials.weights(layer, weight_in(module, layer)):
        with replaced(module, layer, weight):
            scores = [grid.replay.score(index) for index in range(len(grid.replay.batches))]
        losses = _in_file_order(grid.replay, scores)
        row = {
            "layer": layer.name,
            "group": layer.name,
            "criterion": criterion,
            "pattern": grid.trials.pattern,
            "amount": amount,
            "metric": "loss",
            "dense_value": dense_value,
            "samples": len(losses),
            "tokens": int(grid.tokens.sum()),
            "method": METHOD,
            "parameters": layer.parameters,
        }
        if np.isfinite(losses).all():
            change = difference(losses, grid.dense, grid.tokens)
            value = mean_loss(losses, grid.tokens)
            row |= {"value": value, "delta": change.delta, "stderr": change.stderr}
        yield row


def _doubts(layer: Layer, rows: Sequence[Row]) -> Iterator[Finding]:
    """What a reader must not take for robustness, or for harm measured."""
    without_effect = [row["amount"] for row in rows if row.get("delta") == 0 and row["amount"] > 0]
    if without_effect:
        message = f"pruning it at {_listed(without_effect)} leaves the loss exactly as it was"
        yield Finding(kind="zero_effect", subject=layer.name, message=message)
    broken = [row["amount"] for row in rows if row.get("delta") is None]
    if broken:
        message = f"pruned at {_listed(broken)} it gives losses that are NaN or infinite; they are left empty"
        yield Finding(kind="non_finite_loss", subject=layer.name, message=message)


def _listed(amounts: Sequence[float]) -> str:
    return ", ".join(f"{amount:g}" for amount in amounts)


def _full_runs(grid: _Grid) -> Iterator[Finding]:
    replay = grid.replay
    subject = type(grid.model.module).__name__
    if not replay.chain or replay.problem:
        why = replay.problem or "it has no list of blocks that are called once each in order"
        message = f"each trial runs the whole model: {why}"
        yield Finding(kind="no_prefix_reuse", subject=subject, message=message)
    elif replay.left_out:
        message = (
            f"{len(replay.left_out)} of {len(replay.batches)} batches run the whole model for lack of memory"
        )
        yield Finding(kind="no_prefix_reuse", subject=subject, message=message)

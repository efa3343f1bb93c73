"""Effects. What the units and blocks of a model are worth: by a criterion's scores, or by the loss without each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch

from tasks.amounts.promises import loss_over
from tasks.contract import BadInput, Dataset, Finding, Work
from tasks.cutting.cuts import without
from tasks.cutting.depth import Stack, bypassed
from tasks.cutting.symmetry import Group
from tasks.cutting.units import readers, worth
from tasks.examples.data import read
from tasks.examples.fitting import fit
from tasks.loading.models import Layer, Model, load, prunable_layers
from tasks.masks.criteria import NOTHING, Criterion, Seen, criterion_named, layer_score
from tasks.statistics.gathering import Gathered, gathered, statistics_for
from tasks.statistics.holding import holding

BY_LOSS = "loss"
"""The criterion that leaves out one unit after the other and measures."""
MOST_TRIALS = 4096
"""Passes over the calibration data that this criterion may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worths:
    """Numbers that only compare with each other within a group, or within the stack; the lowest go first."""

    units: tuple[torch.Tensor, ...]
    """Of each group, float64 [parts, units]."""
    blocks: torch.Tensor | None
    """Float64 [blocks]; None where no blocks are asked about."""
    findings: tuple[Finding, ...] = ()


def worths_of(work: Work, name: str, groups: Sequence[Group], stack: Stack | None) -> Worths:
    """By the criterion of that name; BadInput if it cannot score them, or the calibration data does not fit."""
    model = load(work.model, work.device)
    if name == BY_LOSS:
        return _by_loss(work, model, groups, stack)
    criterion = criterion_named(name, work.seed)
    if criterion.reconstructs:
        _refuse(f"{name} scores weights while it changes them, and not what is taken out as a whole")
    layers = {layer.weight: layer for layer in prunable_layers(model.module)}
    asked = _asked(criterion, layers, groups, stack)
    seen, findings = _calibrated(work, model, criterion, asked)
    state = model.module.state_dict(keep_vars=True)

    def weight_of(name: str) -> torch.Tensor:
        weight: torch.Tensor = state[name].detach()
        return weight

    units = tuple(worth(group, criterion, layers, weight_of, seen) for group in groups)
    blocks = _blocks(stack, criterion, layers, weight_of, seen) if stack else None
    return Worths(units=units, blocks=blocks, findings=findings)


def _asked(
    criterion: Criterion, layers: Mapping[str, Layer], groups: Sequence[Group], stack: Stack | None
) -> tuple[Layer, ...]:
    """The layers whose weights are scored by more than themselves, in module order."""
    if not criterion.needs_data:
        return ()
    names = {slot.dim.tensor for group in groups for slot in readers(group, layers)}
    if stack:
        names |= {name for name in layers if stack.block_of(name) is not None}
    return tuple(layer for name, layer in layers.items() if name in names)


def _calibrated(
    work: Work, model: Model, criterion: Criterion, layers: Sequence[Layer]
) -> tuple[Callable[[Layer], Seen], tuple[Finding, ...]]:
    if not criterion.needs_data:
        return Gathered().of, ()
    fitted = fit(read(calibration_of(work)), model, labelled=criterion.needs_loss)
    statistics = statistics_for(criterion, model, layers, fitted)
    if statistics.unreached:
        _refuse(f"no calibration example reaches {statistics.unreached[0]}, so its units have no scores")
    found = gathered(criterion, statistics, model, layers, fitted)
    cache = {layer.name: found.of(layer) for layer in layers}
    return lambda layer: cache.get(layer.name, NOTHING), (*statistics.findings, *found.findings())


def _blocks(
    stack: Stack,
    criterion: Criterion,
    layers: Mapping[str, Layer],
    weight_of: Callable[[str], torch.Tensor],
    seen: Callable[[Layer], Seen],
) -> torch.Tensor:
    total = torch.zeros(stack.count, dtype=torch.float64)
    for name, layer in layers.items():
        block = stack.block_of(name)
        if block is not None:
            score = layer_score(criterion, layer, weight_of(name), seen(layer))
            total[block] += float(score.double().square().sum())
    return total


def _by_loss(work: Work, model: Model, groups: Sequence[Group], stack: Stack | None) -> Worths:
    """The loss over the calibration data with each unit on its own left out; the parts of a group are tried apart."""
    trials = sum(group.parts * group.units for group in groups) + (stack.count if stack else 0)
    if trials > MOST_TRIALS:
        _refuse(f"the criterion {BY_LOSS} would take {trials} passes over the calibration data")
    fitted = fit(read(calibration_of(work)), model)

    def loss() -> float:
        found = loss_over(model, fitted)
        return found if found == found else float("inf")

    units = tuple(torch.tensor(list(_trials(model, group, loss)), dtype=torch.float64) for group in groups)
    blocks = None
    if stack:
        losses = []
        for block in range(stack.count):
            with bypassed(model.module, stack, [block]):
                losses.append(loss())
        blocks = torch.tensor(losses, dtype=torch.float64)
    return Worths(units=units, blocks=blocks, findings=fitted.findings)


def _trials(model: Model, group: Group, loss: Callable[[], float]) -> Iterator[list[float]]:
    state = model.module.state_dict(keep_vars=True)
    nothing = torch.zeros(0, dtype=torch.int64)
    for part in range(group.parts):
        losses = []
        for unit in range(group.units):
            gone = [torch.tensor([unit]) if at == part else nothing for at in range(group.parts)]
            with holding(model.module, without(group, gone, state)):
                losses.append(loss())
        yield losses


def calibration_of(work: Work) -> Dataset:
    """BadInput if there is none."""
    if "calibration" not in work.datasets:
        _refuse("the criterion needs calibration data and there is none")
    return work.datasets["calibration"]


def _refuse(why: str) -> NoReturn:
    raise BadInput("the units cannot be scored", why=why, do="Correct the recipe's prune step.")

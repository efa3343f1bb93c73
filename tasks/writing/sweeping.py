"""Effects. What the prune task does to a layer that is reconstructed: its new bytes, and what is to be said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from tasks.contract import Finding
from tasks.examples.fitting import Fitted
from tasks.loading.models import Layer, Model
from tasks.masks.reconstruct import DAMPINGS, factor_of, reconstruct
from tasks.masks.selection import in_stored_order
from tasks.statistics.hessians import hessian_bytes, hessians
from tasks.statistics.passes import Passes
from tasks.writing.recount import digest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one layer."""

    pruned: int
    """How many weights were to go."""
    error: float
    """The reconstruction error."""
    digest: str | None = None
    """Of the bytes to be written, where what stays has changed too."""
    damping: float = 0.0


Change = Callable[[Layer, torch.Tensor, float], tuple[Outcome, Iterable[memoryview]]]
"""(layer, its stored weight, how much of it goes) -> what becomes of it, and the bytes to write."""


def hessians_as_stored(model: Model, layers: Sequence[Layer], running: Model, fitted: Fitted) -> Passes:
    """The Hessians, for layers that are asked for in the order in which their tensors are stored."""
    return hessians(running, in_stored_order(model, layers), fitted)


def sweeping(pattern: str, scope: str | None, matrices: Passes) -> Change:
    """The change that `tasks.masks.reconstruct` makes; NotPositive and NotANumber as there."""

    def change(layer: Layer, weight: torch.Tensor, amount: float) -> tuple[Outcome, Iterable[memoryview]]:
        hessian = matrices.of(layer)
        factor = factor_of(hessian)
        swept = reconstruct(layer, weight, hessian, factor, amount=amount, pattern=pattern, scope=scope)
        stored = swept.weight.cpu()
        outcome = Outcome(
            pruned=swept.pruned, error=swept.error, digest=digest_of(stored), damping=factor.damping
        )
        return outcome, [stored.reshape(-1).view(torch.uint8).numpy().data]

    return change


def findings_of_sweeps(outcomes: Mapping[str, Outcome], matrices: Passes) -> Iterator[Finding]:
    """Every layer that took more damping, and more passes than one."""
    for name, outcome in outcomes.items():
        if outcome.damping > DAMPINGS[0]:
            message = (
                f"its Hessian has a Cholesky factor only with {outcome.damping:g} of the mean diagonal added"
            )
            yield Finding(kind="raised_damping", subject=name, message=message)
    if matrices.count > 1:
        total = sum(map(hessian_bytes, matrices.layers))
        message = (
            f"{matrices.count} passes over the calibration data gathered {total} bytes of Hessians, "
            f"of which at most {matrices.limit} are held, or a single one"
        )
        yield Finding(kind="calibration_passes", subject="model", message=message)

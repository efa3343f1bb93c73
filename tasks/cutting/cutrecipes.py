"""Pure. The params of a prune unit that cuts -> a checked recipe, or why it cannot be carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tasks.amounts.budgets import KINDS as COUNTED
from tasks.recipes import bad_recipe

DEPTH = "depth"
EXPERTS = "experts"
LATENCY = "latency"


@dataclass(frozen=True, slots=True, kw_only=True)
class CutRecipe:
    """The params of a prune unit that cuts, checked."""

    criterion: str
    cut: Mapping[str, float]
    """Kind of unit -> the share of them that goes, or that may go where a budget or a quality says how much."""
    round_to: int = 1
    budget: tuple[str, float] | None = None
    """What is counted (parameters, flops or bytes), and the share of the dense model's that may remain."""
    max_increase: float | None = None
    """Of the loss, relative to the dense one, that measured losses may predict."""
    is_measured: bool = False
    """Whether kinds are weighed by the losses of a sensitivity step; else all shares are made smaller alike."""
    latency: float | None = None
    """The share of the dense model's time that a pass may take; as little is cut as that needs."""
    timing: Mapping[str, int] = field(default_factory=dict)
    """How that is timed: `batch`, `sequence`, `repetitions`, as in the params of the latency task."""

    def scaled(self, factor: float) -> CutRecipe:
        """The recipe with every share that much smaller."""
        return replace(self, cut={kind: share * factor for kind, share in self.cut.items()})


def read_cut(params: Mapping[str, Any]) -> CutRecipe:
    """The params of a prune unit that cuts; BadInput for values that make no sense."""
    cut = {str(kind): float(share) for kind, share in params["cut"].items()}
    if not cut:
        raise bad_recipe("cut names nothing")
    for kind, share in cut.items():
        if not 0 <= share <= 1:
            raise bad_recipe(f"cut.{kind} is {share!r} and must be a share from 0 to 1")
    budget = dict(params.get("budget") or {})
    max_increase = (params.get("quality") or {}).get("max_increase")
    allocation = params.get("allocation", "uniform")
    if len(budget) > 1 or not budget.keys() <= {*COUNTED, LATENCY}:
        raise bad_recipe(f"budget is {budget!r} and must name one of {', '.join((*COUNTED, LATENCY))}")
    for kind, share in budget.items():
        if not (0 <= share <= 1 if kind in COUNTED else 0 < share <= 1):
            raise bad_recipe(f"budget.{kind} is {share!r} and must be a share up to 1, of latency above 0")
    if allocation not in ("uniform", "sensitivity"):
        raise bad_recipe(f"a cut is allocated by sensitivity or not at all, and not by {allocation}")
    is_measured = allocation == "sensitivity"
    latency = budget.pop(LATENCY, None)
    if max_increase is not None and (latency is not None or budget or not is_measured):
        raise bad_recipe(
            "quality.max_increase of a cut needs allocation: sensitivity, and no budget beside it"
        )
    if is_measured and max_increase is None and not budget:
        raise bad_recipe("allocation: sensitivity of a cut needs quality, or a budget of what is counted")
    return CutRecipe(
        criterion=params["criterion"],
        cut=cut,
        round_to=int(params.get("round_to", 1)),
        budget=next(iter(budget.items()), None),
        max_increase=max_increase,
        is_measured=is_measured,
        latency=latency,
        timing=params["timing"] if latency is not None else {},
    )

"""Pure. The params of a prune unit that cuts -> a checked recipe, or why it cannot be carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tasks.recipes import bad_recipe

DEPTH = "depth"


@dataclass(frozen=True, slots=True, kw_only=True)
class CutRecipe:
    """The params of a prune unit that cuts, checked."""

    criterion: str
    cut: Mapping[str, float]
    """Kind of unit -> the share of them that goes, or that may go where a latency says how much."""
    round_to: int = 1
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
    latency = budget.pop("latency", None)
    if budget:
        raise bad_recipe(f"a budget of {', '.join(budget)} is for masks; with cut it can be one of latency")
    if latency is not None and not 0 < latency <= 1:
        raise bad_recipe(f"budget.latency is {latency!r} and must be a share above 0 and up to 1")
    return CutRecipe(
        criterion=params["criterion"],
        cut=cut,
        round_to=int(params.get("round_to", 1)),
        latency=latency,
        timing=params["timing"] if latency is not None else {},
    )

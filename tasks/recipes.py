"""Pure. The params of a prune unit -> a checked recipe, or why it cannot be carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.contract import BadInput
from tasks.patterns import kept_of_group


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The params of a prune unit, checked."""

    criterion: str
    pattern: str
    scope: str | None
    amount: float
    allocation: str
    max_amount: float
    skip: tuple[str, ...]


def read_recipe(params: Mapping[str, Any]) -> Recipe:
    """The params of a prune unit; BadInput for values that contradict each other."""
    pattern, amount = params["pattern"], params.get("amount")
    try:
        groups = kept_of_group(pattern)
    except ValueError as error:
        raise bad_recipe(str(error)) from None
    allocation = params.get("allocation", "uniform")
    if allocation not in ("uniform", "sensitivity", "erk", "owl"):
        raise bad_recipe(f"allocation {allocation!r} is unknown")
    if groups is not None:
        implied = 1 - groups[0] / groups[1]
        if allocation != "uniform" or (amount is not None and abs(amount - implied) > 1e-9):
            raise bad_recipe(f"pattern {pattern} prunes {implied:g} of every layer")
        amount = implied
    if amount is None or not 0 <= amount <= 1:
        raise bad_recipe(f"amount is {amount!r} and must be a share from 0 to 1")
    scope = params.get("scope")
    if scope not in (None, "tensor", "row") or (groups is not None and scope is not None):
        raise bad_recipe(f"scope {scope!r} does not go with pattern {pattern}")
    return Recipe(
        criterion=params["criterion"],
        pattern=pattern,
        scope=scope,
        amount=float(amount),
        allocation=allocation,
        max_amount=float(params.get("max_amount", 1.0)),
        skip=tuple(params.get("skip", ())),
    )


def bad_recipe(why: str) -> BadInput:
    """The error for a recipe whose parts contradict each other, or the work at hand."""
    return BadInput("the recipe cannot be carried out", why=why, do="Correct the recipe's prune step.")

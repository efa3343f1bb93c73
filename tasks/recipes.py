"""Pure. The params of a prune unit -> a checked recipe, or why it cannot be carried out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.contract import BadInput
from tasks.masks.patterns import UNSTRUCTURED, kept_of_group


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The params of a prune unit, checked."""

    criterion: str
    pattern: str
    scope: str | None
    amount: float | None
    """None where a budget or a quality says how much goes."""
    allocation: str
    max_amount: float
    min_amount: float
    min_tokens: int
    """A layer that fewer calibration vectors reach is left alone."""
    skip: tuple[str, ...]
    budget: tuple[str, float] | None = None
    """(kind, the share of the dense model that may remain); see `tasks.amounts.budgets`."""
    max_increase: float | None = None
    """Of the loss, relative to the dense one: what the allocation may be predicted to cost."""
    recover: Mapping[str, Any] = field(default_factory=dict)
    """The steps of `tasks.recovering.recovery`, by name."""

    verify: str | None = None
    """`reload` or `process`: how the artifact is opened and run once it is written."""

    @property
    def mask_scope(self) -> str | None:
        """Within what scores compete once each layer's amount is known."""
        return "tensor" if self.scope == "model" else self.scope

    @property
    def promises(self) -> bool:
        """Whether what was predicted is to be held against what is measured."""
        return self.budget is not None or self.max_increase is not None or self.allocation == "knapsack"


MEASURED = ("sensitivity", "knapsack")
"""Allocations that read measured sensitivities."""


def read_recipe(params: Mapping[str, Any]) -> Recipe:
    """The params of a prune unit; BadInput for values that contradict each other."""
    pattern, amount = params["pattern"], params.get("amount")
    try:
        groups = kept_of_group(pattern)
    except ValueError as error:
        raise bad_recipe(str(error)) from None
    allocation = params.get("allocation", "uniform")
    if allocation not in ("uniform", "erk", "owl", *MEASURED):
        raise bad_recipe(f"allocation {allocation!r} is unknown")
    if groups is not None:
        implied = 1 - groups[0] / groups[1]
        if allocation != "uniform" or (amount is not None and abs(amount - implied) > 1e-9):
            raise bad_recipe(f"pattern {pattern} prunes {implied:g} of every layer")
        amount = implied
    budget, max_increase = _target(params, allocation)
    if (amount is not None) + (budget is not None) + (max_increase is not None) > 1:
        raise bad_recipe("it names more than one of amount, budget and quality")
    if budget is None and max_increase is None and (amount is None or not 0 <= amount <= 1):
        raise bad_recipe(f"amount is {amount!r} and must be a share from 0 to 1")
    scope = params.get("scope")
    if scope == "model" and (pattern != UNSTRUCTURED or allocation != "uniform"):
        raise bad_recipe(
            "scope model ranks all weights together: neither a pattern nor an allocation goes with it"
        )
    min_amount = float(params.get("min_amount", 0.0))
    if min_amount and allocation == "uniform" and scope != "model":
        raise bad_recipe("min_amount goes with scope model and every allocation but uniform")
    if scope not in (None, "tensor", "row", "model") or (groups is not None and scope is not None):
        raise bad_recipe(f"scope {scope!r} does not go with pattern {pattern}")
    return Recipe(
        criterion=params["criterion"],
        pattern=pattern,
        scope=scope,
        amount=None if amount is None else float(amount),
        allocation=allocation,
        max_amount=float(params.get("max_amount", 1.0)),
        min_amount=min_amount,
        min_tokens=int(params.get("min_tokens", 1)),
        skip=tuple(params.get("skip", ())),
        budget=budget,
        max_increase=max_increase,
        recover=dict(params.get("recover") or {}),
        verify=params.get("verify"),
    )


def _target(params: Mapping[str, Any], allocation: str) -> tuple[tuple[str, float] | None, float | None]:
    budget, quality = params.get("budget"), params.get("quality")
    if (budget or quality) and allocation not in MEASURED:
        raise bad_recipe(f"a budget or quality needs one of the allocations {', '.join(MEASURED)}")
    if budget and len(budget) != 1:
        raise bad_recipe(f"the budget names {', '.join(budget)}, and must name one thing")
    pair = next(((str(kind), float(share)) for kind, share in (budget or {}).items()), None)
    if pair and pair[0] == "latency":
        raise bad_recipe("masks make no runtime faster, so there is no budget of latency for them")
    increase = None if quality is None else float(quality["max_increase"])
    if increase is not None and not (math.isfinite(increase) and increase > 0):
        raise bad_recipe(f"quality.max_increase is {increase}, and must be above 0")
    return pair, increase


def bad_recipe(why: str) -> BadInput:
    """The error for a recipe whose parts contradict each other, or the work at hand."""
    return BadInput("the recipe cannot be carried out", why=why, do="Correct the recipe's prune step.")

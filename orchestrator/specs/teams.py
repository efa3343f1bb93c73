"""Pure. The part of a fleet file about fairness: who shares the pools, by which weight, and who comes first."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.specs.nights import Duration
from orchestrator.specs.parts import Part

Spend = Literal["longest", "saving"]


class TeamSpec(Part):
    """Whose work it is, and how much of the pools it gets. A team's work is what some recipe wants of some registry."""

    recipes: tuple[str, ...] = ("*",)
    """Names of recipes, or shell-style patterns."""
    registries: tuple[str, ...] = ("*",)
    """Names of the registries that models come from, or patterns."""
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Of teams of one priority that have work left, each gets time in proportion to its weight."""
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    """Teams of higher priority come first altogether."""
    deadline: Duration | None = None
    """From the begin of a run, such as 2h: of one priority, teams with deadlines come first, the earliest first."""

"""Effects. Where a fleet's aliases are moved: the registry that is meant, the fleet's rule, and who moves them."""

from __future__ import annotations

import os
import time

from orchestrator.errors import UsageError
from orchestrator.names import problem_of_part
from orchestrator.ports import ObjectStore
from orchestrator.promotion.promoting import Office
from orchestrator.registries.opening import open_outlet
from orchestrator.spec import Fleet


def office_of(fleet: Fleet, store: ObjectStore, registry: str | None, actor: str | None) -> Office:
    """The office for a registry, by default the one that all recipes publish to, and for an actor, by default this user.

    Errors: UsageError, if no one registry is meant, or it or the actor's name cannot be.
    """
    goals = sorted({recipe.publish.registry for recipe in fleet.recipes.values() if recipe.publish})
    if registry is None:
        if len(goals) != 1:
            raise UsageError(
                f"name the registry with --registry: {', '.join(goals or sorted(fleet.registries))}"
            )
        registry = goals[0]
    if registry not in fleet.registries:
        raise UsageError(f"there is no registry {registry!r}; known: {', '.join(sorted(fleet.registries))}")
    who = actor or this_user()
    if why := problem_of_part(who):
        raise UsageError(f"{who!r} cannot be a name: {why}")
    return Office(
        store=store,
        outlet=open_outlet(registry, fleet.registries[registry]),
        fleet=fleet.name,
        rule=fleet.promotion,
        actor=who,
        at=time.time(),
        environment=dict(os.environ),
    )


def this_user() -> str:
    """Whose name stands in records if nothing else is said."""
    return os.environ.get("USER") or os.environ.get("LOGNAME") or "unknown"

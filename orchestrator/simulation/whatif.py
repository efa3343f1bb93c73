"""Effects. What a fleet's plan takes on its pools as they are, and on pools with one slot more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.domain import Plan, Pool
from orchestrator.schedule.costs import Costs
from orchestrator.schedule.placement import place
from orchestrator.simulation.capacity import Assumptions, Outcome, simulate, with_another_slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A plan, simulated on some pools."""

    widened: str
    """The pool that has a slot more; empty for the pools as they are."""
    outcome: Outcome
    lower_bound_seconds: float

    @property
    def ratio(self) -> float:
        """The makespan over its lower bound, which holds only if every estimate is right."""
        return self.outcome.makespan_seconds / self.lower_bound_seconds if self.lower_bound_seconds else 1.0


def scenarios(
    plan: Plan, pools: Mapping[str, Pool], costs: Costs, assumptions: Assumptions
) -> list[Scenario]:
    """The pools as they are, then each pool that has slots with one more."""
    wider = [{**pools, name: with_another_slot(pool)} for name, pool in pools.items() if pool.slots]
    names = ["", *(name for name, pool in pools.items() if pool.slots)]
    found = []
    for widened, each in zip(names, [pools, *wider], strict=True):
        placement = place(plan, each, costs)
        outcome = simulate(plan, each, costs, placement.misfits, assumptions)
        found.append(
            Scenario(widened=widened, outcome=outcome, lower_bound_seconds=placement.lower_bound_seconds)
        )
    return found


def nothing_cached(plan: Plan) -> Plan:
    """The same plan as if no unit had a result, and none were quarantined."""
    return replace(plan, done=frozenset(), todo=tuple(plan.units), quarantined={})


def as_json(found: list[Scenario]) -> dict[str, Any]:
    """What `simulate --json` prints."""
    base, *others = found
    return {
        **_numbers(base),
        "units": dict(base.outcome.units),
        "attempts": base.outcome.attempts,
        "pools": {
            name: {"slots": slots, "utilization": round(base.outcome.utilization(name), 4)}
            for name, slots in base.outcome.slots.items()
        },
        "one_slot_more": {
            other.widened: {
                **_numbers(other),
                "saves_seconds": round(base.outcome.makespan_seconds - other.outcome.makespan_seconds, 3),
                "more_dollars": round(other.outcome.dollars - base.outcome.dollars, 4),
            }
            for other in others
        },
    }


def _numbers(scenario: Scenario) -> dict[str, Any]:
    return {
        "makespan_seconds": round(scenario.outcome.makespan_seconds, 3),
        "lower_bound_seconds": round(scenario.lower_bound_seconds, 3),
        "ratio": round(scenario.ratio, 4),
        "dollars": round(scenario.outcome.dollars, 4),
    }

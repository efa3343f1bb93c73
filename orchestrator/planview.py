"""Pure. A plan as rows and sentences, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from orchestrator.domain import Plan, Pool, TaskName
from orchestrator.reports.gains import expectation
from orchestrator.schedule.costs import Costs, money
from orchestrator.schedule.placement import Placement

TASKS = tuple(TaskName)


def as_json(plan: Plan, placement: Placement, pools: Mapping[str, Pool], costs: Costs) -> dict[str, Any]:
    """What `plan --json` prints: the summary, every unit with its state and why, and all that cannot be."""
    return {
        "fleet": plan.fleet,
        "summary": summary(plan, placement, pools),
        "units": [unit_row(plan, placement, key, pools, costs) for key in plan.units],
        "impossible": [
            {"subject": item.subject, "recipe": item.recipe, "reason": item.reason}
            for item in plan.impossible
        ],
        "quarantined": dict(plan.quarantined),
        "notices": list(notices(plan)),
    }


def notices(plan: Plan) -> tuple[str, ...]:
    """What the recipes of each pattern cannot be expected to gain, and why; and which of them nothing judges."""
    recipes: dict[str, dict[str, None]] = {}
    ungated: dict[str, None] = {}
    for chain in plan.chains:
        if chain.prune:
            pattern = str(plan.units[chain.prune].step.params.get("pattern", "cut"))
            recipes.setdefault(pattern, {}).setdefault(chain.recipe)
        if chain.judge and plan.units[chain.judge].step.params["gates"] is None:
            ungated.setdefault(chain.recipe)
    gains = [
        f"{', '.join(names)} ({pattern}): {why}"
        for pattern, names in recipes.items()
        if (why := expectation(pattern))
    ]
    unjudged = [
        f"{', '.join(ungated)}: no gates, so what is lost is measured and not judged: all of it passes"
    ]
    return (*gains, *(unjudged if ungated else ()))


def summary(plan: Plan, placement: Placement, pools: Mapping[str, Pool]) -> dict[str, Any]:
    """Counts, and the prediction for the units to do."""
    to_do = len(plan.todo) - len(placement.misfits)
    best = min(pools.values(), key=lambda pool: placement.work_seconds[pool.name])
    return {
        "models": len({chain.model.digest for chain in plan.chains}),
        "wanted": len(plan.units),
        "done": len(plan.done),
        "to_do": to_do,
        "impossible": len(plan.impossible) + len(placement.misfits),
        "quarantined": len(plan.quarantined),
        "predicted_work_seconds": placement.work_seconds[best.name],
        "lower_bound_seconds": placement.lower_bound_seconds,
        "peak_memory_bytes": placement.peak_memory_bytes,
        "predicted_cost_dollars": money(placement.work_seconds[best.name], best),
    }


def unit_row(
    plan: Plan, placement: Placement, key: str, pools: Mapping[str, Pool], costs: Costs
) -> dict[str, Any]:
    """One unit: what it is, its state, and why."""
    unit = plan.units[key]
    state, why = state_of(plan, placement, key)
    fastest = min(
        (costs.estimate(unit, pool) for pool in pools.values()), key=lambda estimate: estimate.seconds
    )
    return {
        "unit_key": key,
        "task": unit.task.value,
        "model": unit.model.id,
        "recipe": unit.recipe,
        "part": f"{unit.part + 1}/{unit.parts}",
        "state": state,
        "why": why,
        "predicted_seconds": round(fastest.seconds, 3),
        "predicted_memory_bytes": fastest.memory_bytes,
    }


def state_of(plan: Plan, placement: Placement, key: str) -> tuple[str, str]:
    """cached, to do, waiting, quarantined or impossible; and the reason."""
    if key in plan.done:
        return "cached", "its result is in the store"
    if key in plan.quarantined:
        return "quarantined", plan.quarantined[key]
    if key in placement.misfits:
        return "impossible", placement.misfits[key]
    waits = [need for need in plan.units[key].needs if need not in plan.done]
    blocked = [need for need in waits if state_of(plan, placement, need)[0] in ("quarantined", "impossible")]
    if blocked:
        names = ", ".join(sorted({plan.units[need].task.value for need in blocked}))
        return "impossible", f"the {names} that it needs cannot be done"
    if waits:
        names = ", ".join(sorted({plan.units[need].task.value for need in waits}))
        return "to do", f"no result yet; after {names}"
    return "to do", "no result yet for this model, data and parameters"


def recipe_rows(plan: Plan) -> list[dict[str, Any]]:
    """For each recipe: its model versions, and for each task how many of its units are done of all."""
    rows = []
    for name in dict.fromkeys(chain.recipe for chain in plan.chains):
        chains = [chain for chain in plan.chains if chain.recipe == name]
        keys = {key for chain in chains for key in chain.units}
        wanted = Counter(plan.units[key].task for key in keys)
        done = Counter(plan.units[key].task for key in keys if key in plan.done)
        rows.append(
            {
                "recipe": name,
                "models": len(chains),
                **{task.value: (done[task], wanted[task]) for task in TASKS if wanted[task]},
            }
        )
    return rows

"""Pure. Which pools a unit fits, and the least time that any schedule could take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.costs import Costs
from orchestrator.domain import Plan, Pool, Unit
from orchestrator.ready import Cell, cell_of
from orchestrator.spec import Fleet, PoolSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What the pools can do with a plan."""

    misfits: Mapping[str, str]
    """Unit key -> why it fits no pool."""
    lower_bound_seconds: float
    """No schedule on these pools is faster, if the estimates are right."""
    work_seconds: Mapping[str, float]
    """By pool, of all units on it alone; infinite where one does not fit."""
    peak_memory_bytes: int
    """The largest single unit."""


def pools_of(fleet: Fleet) -> dict[str, Pool]:
    """The fleet's pools."""
    return {name: _pool(name, spec) for name, spec in fleet.pools.items()}


def _pool(name: str, spec: PoolSpec) -> Pool:
    cpus_per_shard = spec.cpus_per_shard if spec.cpus_per_shard is not None else min(1.0, spec.cpus)
    gpus_per_shard = spec.gpus_per_shard if spec.gpus_per_shard is not None else min(1.0, spec.gpus)
    return Pool(
        name=name,
        cpus=spec.cpus,
        gpus=spec.gpus,
        memory_bytes=spec.memory,
        cpus_per_shard=cpus_per_shard,
        gpus_per_shard=gpus_per_shard,
        label_selector=dict(spec.label_selector),
        price_per_hour=spec.price_per_hour,
    )


def fits(unit: Unit, pool: Pool, costs: Costs, memory_factor: float = 1.0) -> bool:
    """Whether the pool has room for the unit when nothing else runs there."""
    if pool.memory_bytes is None:
        return pool.slots > 0
    return pool.slots > 0 and costs.estimate(unit, pool, memory_factor).memory_bytes <= pool.memory_bytes


def place(plan: Plan, pools: Mapping[str, Pool], costs: Costs) -> Placement:
    """What fits nowhere, and bounds on the time of the rest."""
    misfits: dict[str, str] = {}
    units = [plan.units[key] for key in plan.todo]
    for unit in units:
        if not any(fits(unit, pool, costs) for pool in pools.values()):
            misfits[unit.key] = _misfit(unit, pools, costs)
    rest = [unit for unit in units if unit.key not in misfits]
    bound = max(_area_bound(rest, pools, costs), _path_bound(plan, rest, pools, costs))
    return Placement(
        misfits=misfits,
        lower_bound_seconds=bound,
        work_seconds={name: _work(rest, pool, costs) for name, pool in pools.items()},
        peak_memory_bytes=max(
            (costs.estimate(unit, next(iter(pools.values()))).memory_bytes for unit in rest), default=0
        ),
    )


def _misfit(unit: Unit, pools: Mapping[str, Pool], costs: Costs) -> str:
    needs = costs.estimate(unit, next(iter(pools.values()))).memory_bytes
    largest = max(pools.values(), key=lambda pool: pool.memory_bytes or 0)
    return (
        f"{unit.task} of {unit.model.id} needs about {needs / 2**30:.1f} GiB of memory; the largest pool "
        f"{largest.name!r} has {(largest.memory_bytes or 0) / 2**30:.1f} GiB. Add a larger pool or raise its memory"
    )


def _work(units: Iterable[Unit], pool: Pool, costs: Costs) -> float:
    total = 0.0
    for unit in units:
        if not fits(unit, pool, costs):
            return float("inf")
        total += costs.estimate(unit, pool).seconds
    return total


def _path_bound(plan: Plan, units: list[Unit], pools: Mapping[str, Pool], costs: Costs) -> float:
    """The longest chain of units that wait for each other, each on its fastest pool."""
    ends: dict[str, float] = {}
    for unit in units:
        fastest = min(
            costs.estimate(unit, pool).seconds for pool in pools.values() if fits(unit, pool, costs)
        )
        ends[unit.key] = fastest + max((ends.get(need, 0.0) for need in unit.needs), default=0.0)
    return max(ends.values(), default=0.0)


def _area_bound(units: list[Unit], pools: Mapping[str, Pool], costs: Costs) -> float:
    """All work, divided over all slots as if it were a fluid: the linear relaxation of R||Cmax over cells of units."""
    if not units:
        return 0.0
    cells: dict[Cell, dict[str, float]] = {}
    for unit in units:
        work = cells.setdefault(cell_of(unit), dict.fromkeys(pools, 0.0))
        for name, pool in pools.items():
            work[name] += costs.estimate(unit, pool).seconds if fits(unit, pool, costs) else float("inf")
    slots = {name: pool.slots for name, pool in pools.items() if pool.slots}
    if len(slots) == 1:
        (name,) = slots
        return sum(work[name] for work in cells.values()) / slots[name]
    return _fractional_makespan(list(cells.values()), slots)


def _fractional_makespan(cells: list[dict[str, float]], slots: Mapping[str, int]) -> float:
    import numpy as np
    from scipy.optimize import linprog

    names = list(slots)
    columns = len(cells) * len(names)
    limit = np.zeros((len(names), columns + 1))
    share = np.zeros((len(cells), columns + 1))
    bounds: list[tuple[float, float | None]] = []
    for row, work in enumerate(cells):
        for column, name in enumerate(names):
            at = row * len(names) + column
            possible = work[name] != float("inf")
            limit[column, at] = work[name] / slots[name] if possible else 0.0
            share[row, at] = 1.0
            bounds.append((0.0, 1.0 if possible else 0.0))
    limit[:, columns] = -1.0
    goal = np.zeros(columns + 1)
    goal[columns] = 1.0
    solved = linprog(
        goal,
        A_ub=limit,
        b_ub=np.zeros(len(names)),
        A_eq=share,
        b_eq=np.ones(len(cells)),
        bounds=[*bounds, (0.0, None)],
    )
    assert solved.status == 0, f"the bound's linear program must be solvable: {solved.message}"
    return float(solved.x[columns])

"""Pure. Which pools a unit fits, and the least time that any schedule could take."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.domain import Plan, Pool, Unit
from orchestrator.schedule.costs import Costs
from orchestrator.schedule.forecast import Forecast, Outlook, has_room
from orchestrator.spec import Fleet, PoolSpec

RATIO_STEP = (
    0.02  # of the logarithm: how far units may differ in what suits them and still be bounded together
)


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
        node_memory_bytes=spec.memory_per_node,
    )


def pools_on(pools: Mapping[str, Pool], largest: Mapping[str, int]) -> dict[str, Pool]:
    """The pools as they are on a cluster whose largest nodes have so much memory; what the fleet says of its nodes holds."""
    return {
        name: replace(pool, node_memory_bytes=largest.get(name))
        if pool.node_memory_bytes is None and pool.memory_bytes is not None
        else pool
        for name, pool in pools.items()
    }


def place(plan: Plan, pools: Mapping[str, Pool], costs: Costs) -> Placement:
    """What fits nowhere, and bounds on the time of the rest; what needs a misfit is not part of the rest."""
    forecast = Forecast(pools, costs)
    misfits: dict[str, str] = {}
    hopeless: set[str] = set()
    ends: dict[str, float] = {}
    counts: Counter[Outlook] = Counter()
    for key in plan.todo:
        unit = plan.units[key]
        outlook = forecast.of(unit)
        if not outlook.rooms:
            misfits[key] = _misfit(unit, pools, outlook.memory_bytes)
        if not outlook.rooms or not hopeless.isdisjoint(unit.needs):
            hopeless.add(key)
            continue
        counts[outlook] += 1
        ends[key] = outlook.fastest + max((ends.get(need, 0.0) for need in unit.needs), default=0.0)
    longest_chain = max(ends.values(), default=0.0)
    return Placement(
        misfits=misfits,
        lower_bound_seconds=max(_area_bound(counts, pools), longest_chain),
        work_seconds={name: _work(counts, name) for name in pools},
        peak_memory_bytes=max((outlook.memory_bytes for outlook in counts), default=0),
    )


def _misfit(unit: Unit, pools: Mapping[str, Pool], memory_bytes: int) -> str:
    needs = f"{unit.task} of {unit.model.id} needs about {memory_bytes / 2**30:.1f} GiB of memory"
    roomy = [pool for pool in pools.values() if has_room(replace(pool, node_memory_bytes=None), memory_bytes)]
    if roomy:
        pool = max(roomy, key=lambda pool: pool.node_memory_bytes or 0)
        return (
            f"{needs} on one node; the largest node of pool {pool.name!r} has {(pool.node_memory_bytes or 0) / 2**30:.1f} GiB. "
            "Give the pool a larger node; where the cluster brings one when it is asked for, say memory_per_node"
        )
    largest = max(pools.values(), key=lambda pool: pool.memory_bytes or 0)
    return (
        f"{needs}; the largest pool {largest.name!r} has {(largest.memory_bytes or 0) / 2**30:.1f} GiB. "
        "Add a larger pool or raise its memory"
    )


def _work(counts: Mapping[Outlook, int], pool: str) -> float:
    return sum(
        outlook.seconds[pool] * count if pool in outlook.rooms else math.inf
        for outlook, count in counts.items()
    )


def _area_bound(counts: Mapping[Outlook, int], pools: Mapping[str, Pool]) -> float:
    """All work, divided over all slots as if it were a fluid: the linear relaxation of R||Cmax over groups of units.

    A group's units suit the pools in nearly the same proportions; it counts as if each pool were as good for all of them
    as it is for the one that it suits best, so that the bound stays one.
    """
    slots = {name: pool.slots for name, pool in pools.items() if pool.slots}
    groups: dict[tuple[int, ...], _Group] = {}
    for outlook, count in counts.items():
        ratios = tuple(
            outlook.seconds[name] / outlook.fastest if name in outlook.rooms else math.inf for name in slots
        )
        steps = tuple(-1 if ratio == math.inf else int(math.log(ratio) / RATIO_STEP) for ratio in ratios)
        group = groups.setdefault(steps, _Group(ratios))
        group.seconds += outlook.fastest * count
        group.ratios = tuple(map(min, group.ratios, ratios))
    if not groups:
        return 0.0
    if len(slots) == 1:
        return sum(group.seconds for group in groups.values()) / sum(slots.values())
    works = [
        {name: group.seconds * ratio for name, ratio in zip(slots, group.ratios, strict=True)}
        for group in groups.values()
    ]
    return _fractional_makespan(works, slots)


@dataclass(slots=True)
class _Group:
    ratios: tuple[float, ...]
    """By pool: its seconds to those of the quickest one."""
    seconds: float = 0.0
    """On the quickest pool."""


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

"""Pure. What units take on each pool, worked out once for all units that are alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.domain import Pool, TaskName, Unit
from orchestrator.schedule.costs import Costs

AFFINITY_STEP = 0.1  # of the logarithm: pools compare alike for units that differ by less


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """Units of one task that need about as much memory and suit the pools in about the same proportions."""

    task: TaskName
    memory: int
    """In powers of two."""
    steps: tuple[float, ...]
    """For each pool, how much longer than the quickest it takes, in `AFFINITY_STEP`; infinite where there is no room."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outlook:
    """What a unit is expected to take."""

    seconds: Mapping[str, float]
    """By pool, whether it fits there or not."""
    memory_bytes: int
    rooms: frozenset[str]
    """Pools that it fits when nothing else runs there."""
    fastest: float
    """Seconds on the quickest pool that it fits, or on the quickest of all where it fits none."""
    cell: Cell


@dataclass(slots=True)
class Forecast:
    """A cost model and pools, and every outlook that was asked for; equal cells are one object."""

    pools: Mapping[str, Pool]
    costs: Costs
    known: dict[tuple[str, str, int, float], Outlook] = field(default_factory=dict)
    cells: dict[tuple[TaskName, int, tuple[float, ...]], Cell] = field(default_factory=dict)

    def of(self, unit: Unit, memory_factor: float = 1.0) -> Outlook:
        """The unit's outlook; one object for all units that do the same on the same model."""
        alike = (unit.step.digest, unit.model.digest, unit.parts, memory_factor)
        outlook = self.known.get(alike)
        if outlook is None:
            outlook = self.known[alike] = self._look(unit, memory_factor)
        return outlook

    def _look(self, unit: Unit, memory_factor: float) -> Outlook:
        estimates = {
            name: self.costs.estimate(unit, pool, memory_factor) for name, pool in self.pools.items()
        }
        seconds = {name: estimate.seconds for name, estimate in estimates.items()}
        memory = max((estimate.memory_bytes for estimate in estimates.values()), default=0)
        rooms = frozenset(name for name, pool in self.pools.items() if has_room(pool, memory))
        quickest = min(seconds.values())
        steps = tuple(
            round(math.log(seconds[name] / quickest) / AFFINITY_STEP) if name in rooms else math.inf
            for name in seconds
        )
        return Outlook(
            seconds=seconds,
            memory_bytes=memory,
            rooms=rooms,
            fastest=min(seconds[name] for name in rooms or seconds),
            cell=self._cell(unit.task, int(math.log2(memory + 1)), steps),
        )

    def _cell(self, task: TaskName, memory: int, steps: tuple[float, ...]) -> Cell:
        return self.cells.setdefault((task, memory, steps), Cell(task, memory, steps))


def has_room(pool: Pool, memory_bytes: int) -> bool:
    """Whether a shard of so much memory fits the pool when nothing else runs there."""
    limits = (pool.memory_bytes, pool.node_memory_bytes)
    return pool.slots > 0 and all(limit is None or memory_bytes <= limit for limit in limits)

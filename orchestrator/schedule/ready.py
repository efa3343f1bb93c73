"""Pure. The units that may start now, kept so that the best shard for a free slot is found without looking at all."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.domain import TaskName, Unit
from orchestrator.schedule.forecast import Cell


def load_of(unit: Unit) -> str:
    """What must be loaded before the unit can run; units with equal loads share a shard."""
    if unit.task is TaskName.JUDGE:
        return "results only"
    reads_artifact = unit.task in (TaskName.EVALUATE, TaskName.LATENCY) and unit.needs
    return unit.needs[0] if reads_artifact else unit.model.digest


@dataclass(slots=True)
class Ready:
    """Ready units by cell and load; within a cell the load with the highest rank comes first."""

    groups: dict[tuple[Cell, str], dict[str, None]] = field(default_factory=dict)
    heaps: dict[Cell, list[tuple[float, str]]] = field(default_factory=dict)
    size: int = 0

    def add(self, unit: Unit, cell: Cell, rank: float, band: int = 0) -> None:
        """Puts a unit in. `rank` is the time from its start to the end of all that waits for it; more is more urgent.

        Units of different bands share no shard, so that none comes with one that is to start before it.
        """
        load = f"{load_of(unit)}|{band}" if band else load_of(unit)
        group = self.groups.setdefault((cell, load), {})
        if unit.key not in group:
            group[unit.key] = None
            self.size += 1
            heapq.heappush(self.heaps.setdefault(cell, []), (-rank, load))

    def head(self, cell: Cell) -> tuple[str, float] | None:
        """The cell's most urgent unit and its rank; None if the cell is empty."""
        heap = self.heaps.get(cell)
        while heap:
            rank, load = heap[0]
            group = self.groups.get((cell, load))
            if group:
                return next(iter(group)), -rank
            heapq.heappop(heap)
        self.heaps.pop(cell, None)
        return None

    def take(
        self, cell: Cell, seconds: float, cost: Callable[[str], float], joins: Callable[[str], bool]
    ) -> dict[str, float]:
        """Removes the most urgent load's units until they add up to about `seconds`, at least one; what each costs.

        `joins` says whether a unit may share a shard at all; one that may not is taken alone. The cell must have a head.
        """
        load = self.heaps[cell][0][1]
        group = self.groups[(cell, load)]
        taken: dict[str, float] = {}
        for key in group:
            is_alone = not joins(key)
            if taken and is_alone:
                continue
            own = cost(key)
            if taken and own > seconds:
                break
            taken[key] = own
            seconds -= own
            if is_alone:
                break
        for key in taken:
            del group[key]
        self.size -= len(taken)
        if not group:
            del self.groups[(cell, load)]
        return taken

"""Pure. The units that may start now, kept so that the best shard for a free slot is found without looking at all."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from orchestrator.domain import TaskName, Unit
from orchestrator.forecast import Cell


def load_of(unit: Unit) -> str:
    """What must be loaded before the unit can run; units with equal loads share a shard."""
    if unit.task is TaskName.JUDGE:
        return "results only"
    return unit.needs[0] if unit.task is TaskName.EVALUATE and unit.needs else unit.model.digest


@dataclass(slots=True)
class Ready:
    """Ready units by cell and load; within a cell the load with the highest rank comes first."""

    groups: dict[tuple[Cell, str], dict[str, None]] = field(default_factory=dict)
    heaps: dict[Cell, list[tuple[float, str]]] = field(default_factory=dict)
    size: int = 0

    def add(self, unit: Unit, cell: Cell, rank: float) -> None:
        """Puts a unit in. `rank` is the time from its start to the end of all that waits for it; more is more urgent."""
        load = load_of(unit)
        group = self.groups.setdefault((cell, load), {})
        if unit.key not in group:
            group[unit.key] = None
            self.size += 1
            heapq.heappush(self.heaps.setdefault(cell, []), (-rank, load))

    def heads(self) -> Iterator[tuple[Cell, str, float]]:
        """For each cell that is not empty: the cell, the most urgent unit's key, its rank."""
        for cell in list(self.heaps):
            heap = self.heaps[cell]
            while heap and (cell, heap[0][1]) not in self.groups:
                heapq.heappop(heap)
            if heap:
                yield cell, next(iter(self.groups[(cell, heap[0][1])])), -heap[0][0]
            else:
                del self.heaps[cell]

    def take(
        self, cell: Cell, seconds: float, cost: Callable[[str], float], joins: Callable[[str], bool]
    ) -> list[str]:
        """Removes the most urgent load's units until they add up to about `seconds`; at least one.

        `joins` says whether a unit may share a shard at all; one that may not is taken alone.
        """
        load = self.heaps[cell][0][1]
        group = self.groups[(cell, load)]
        taken: list[str] = []
        total = 0.0
        for key in group:
            if taken and not joins(key):
                continue
            if taken and total + cost(key) > seconds:
                break
            taken.append(key)
            total += cost(key)
            if not joins(key):
                break
        for key in taken:
            del group[key]
        self.size -= len(taken)
        if not group:
            del self.groups[(cell, load)]
            if self.heaps[cell] and self.heaps[cell][0][1] == load:
                heapq.heappop(self.heaps[cell])
        return taken

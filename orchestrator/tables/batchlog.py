"""Effects. The log of batches: which units go into the tables together, each batch fixed once by a create-only object."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from orchestrator.errors import StoreError
from orchestrator.ports import ObjectStore

_PREFIX = "tables/_batches/"
_KEY = re.compile(r"tables/_batches/(\d{6})/(\d{8})\.json\Z")
_GENERATION = 10**9
_THREADS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Units whose rows enter each table in one commit."""

    generation: int
    """Raised by every rebuild."""
    place: int
    """From 1, without gaps."""
    units: tuple[tuple[str, str], ...]
    """Task and unit key."""

    @property
    def number(self) -> int:
        """What a table remembers of it; grows with generation and place."""
        return self.generation * _GENERATION + self.place

    @property
    def is_first(self) -> bool:
        """Whether it takes the place of everything that older generations wrote."""
        return self.place == 1


class BatchLog:
    """The batches of the newest generation that this process has seen."""

    def __init__(self, store: ObjectStore):
        self._store = store
        self.generation = 1
        self.batches: list[Batch] = []

    @property
    def last_number(self) -> int:
        """Of the newest batch; 0 if there is none."""
        return self.batches[-1].number if self.batches else 0

    def unit_keys(self) -> frozenset[str]:
        """Every unit that is in a batch."""
        return frozenset(key for batch in self.batches for _, key in batch.units)

    def refresh(self) -> None:
        """Reads what was fixed since; starts over where a new generation has begun. Errors: StoreError."""
        matches = (_KEY.match(found.key) for found in self._store.list(_PREFIX))
        places = [(int(match[1]), int(match[2])) for match in matches if match]
        newest = max((generation for generation, _ in places), default=1)
        if newest != self.generation:
            self.generation, self.batches = newest, []
        there = [place for generation, place in places if generation == newest]
        if there != list(range(1, len(there) + 1)):
            raise StoreError(
                f"{_PREFIX}{newest:06}/ in {self._store.url} has gaps; `prunefleet rebuild` makes the tables anew"
            )
        with ThreadPoolExecutor(_THREADS) as pool:
            self.batches.extend(pool.map(lambda place: self._read(newest, place), there[len(self.batches) :]))

    def append(self, units: Iterable[tuple[str, str]]) -> bool:
        """Fixes the next batch; False if another folder fixed one in its place."""
        batch = Batch(generation=self.generation, place=len(self.batches) + 1, units=tuple(units))
        return self._fix(batch)

    def begin(self, generation: int) -> bool:
        """Begins a generation with an empty batch, which empties the tables; False if another has begun it."""
        return self._fix(Batch(generation=generation, place=1, units=()))

    def _fix(self, batch: Batch) -> bool:
        return self._store.put_if_absent(
            f"{_PREFIX}{batch.generation:06}/{batch.place:08}.json",
            json.dumps({"batch": batch.number, "units": batch.units}).encode(),
        )

    def _read(self, generation: int, place: int) -> Batch:
        key = f"{_PREFIX}{generation:06}/{place:08}.json"
        try:
            units = tuple((str(task), str(unit)) for task, unit in json.loads(self._store.get(key))["units"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise StoreError(
                f"{key} in {self._store.url} is no batch ({error}); `prunefleet rebuild` makes the tables anew"
            ) from error
        return Batch(generation=generation, place=place, units=units)


def generation_of(number: int) -> int:
    """The generation of the batch that a table remembers; 0 if it remembers none."""
    return number // _GENERATION


def generations(store: ObjectStore) -> Iterator[int]:
    """Of every batch there is."""
    return (int(match[1]) for found in store.list(_PREFIX) if (match := _KEY.match(found.key)))

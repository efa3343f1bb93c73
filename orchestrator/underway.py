"""Effects. What is under way, written down before it starts, so that what dies with its controller is known.

One object for what a round starts, removed when all of it has ended. What others left there is of a run that died, or of
one that still lives: such units are tried alone and after all others, which costs little if they were not to blame.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from orchestrator.errors import STORE_ERRORS, NotFound, StoreError, Unreachable
from orchestrator.inflight import mapped
from orchestrator.ports import ObjectStore
from orchestrator.schedule.scheduling import Start
from orchestrator.tables.listing import THREADS

PREFIX = "underway/"
FORGOTTEN_SECONDS = 30 * 86_400.0
CLOSING_TRIES = 3


@dataclass(slots=True)
class Journal:
    """One controller's own entries."""

    store: ObjectStore
    name: str
    """The run's id; where clusters share the run, with the controller's own name behind it."""
    pages: int = 0
    page_of: dict[str, str] = field(default_factory=dict)
    """Attempt -> the object that names it."""
    open: dict[str, set[str]] = field(default_factory=dict)
    """Object -> those of its attempts that have not ended."""
    ended: list[str] = field(default_factory=list)
    """Objects without such attempts that are still to be removed."""

    def begin(self, starts: Sequence[Start], at: float) -> None:
        """Writes down what is to start. Errors: those of the store; then nothing of it may start."""
        page = f"{PREFIX}{self.name}/{self.pages:08d}.json"
        self.pages += 1
        attempts = {start.attempt_id: start.shard.units for start in starts}
        self.store.put(page, json.dumps({"at": at, "attempts": attempts}).encode())
        self.open[page] = set(attempts)
        self.page_of.update(dict.fromkeys(attempts, page))

    def end(self, attempt_id: str) -> None:
        """The attempt has ended, one way or another."""
        page = self.page_of.pop(attempt_id, None)
        if page is None:
            return
        self.open[page].discard(attempt_id)
        if not self.open[page]:
            del self.open[page]
            self.ended.append(page)

    def close(self) -> None:
        """The run ends: tries a few times to remove what is still there."""
        for _ in range(CLOSING_TRIES):
            self.tidy()

    def tidy(self) -> None:
        """Removes the objects of which everything has ended; best done when no free slot waits for it."""
        with suppress(*STORE_ERRORS):  # tried again later; left behind, it costs a later run a little care
            while self.ended:
                self.store.delete(self.ended[-1])
                self.ended.pop()


def left(store: ObjectStore, threads: int = THREADS, own_run: str = "") -> frozenset[str]:
    """Units that were under way when a run died, or are so in one that lives; not those of a run that others share."""
    own = f"{PREFIX}{own_run}/" if own_run else "-"
    found = _entries(store, threads)
    return frozenset(unit for key, _, units in found if not key.startswith(own) for unit in units)


def settle(store: ObjectStore, done: Collection[str], at: float) -> None:
    """Removes what needs no more attention: every unit of it has a result, or it is a month old."""
    _remove(
        store,
        (
            key
            for key, begun, units in _entries(store)
            if at - begun > FORGOTTEN_SECONDS or all(unit in done for unit in units)
        ),
    )


def _entries(store: ObjectStore, threads: int = THREADS) -> Iterator[tuple[str, float, list[str]]]:
    """Each object with its moment and its units; what is no entry has none.

    What is gone meanwhile, or cannot be read now, is left out: it can only bring less care.
    """
    keys = [stat.key for stat in store.list(PREFIX)]
    read = partial(_read, store)
    return filter(None, map(read, keys) if threads == 1 else mapped(read, keys, threads))


def _read(store: ObjectStore, key: str) -> tuple[str, float, list[str]] | None:
    try:
        match json.loads(store.get(key)):
            case {"at": int() | float() as at, "attempts": dict(attempts)}:
                return key, float(at), [str(unit) for units in attempts.values() for unit in units]
    except (NotFound, StoreError, Unreachable):
        return None
    except (ValueError, TypeError):
        pass
    return key, 0.0, []


def _remove(store: ObjectStore, keys: Iterable[str]) -> None:
    for key in list(keys):
        store.delete(key)

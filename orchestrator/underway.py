"""Effects. What is under way, written down before it starts, so that what dies with its controller still counts.

One object for what a round starts, removed when all of it has ended. What others left there is of a run that died, or of
one that still lives: such units are tried alone and after all others, which costs little if they were not to blame. A unit
that was under way alone when run after run died, hours apart, is quarantined.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from orchestrator import quarantine
from orchestrator.domain import Failure, FailureClass, Plan
from orchestrator.errors import NotFound, StoreError, Unreachable
from orchestrator.inflight import mapped
from orchestrator.listing import THREADS
from orchestrator.ports import ObjectStore
from orchestrator.retry import POLICY
from orchestrator.scheduling import Start

PREFIX = "underway/"
APART_SECONDS = 6 * 3600.0  # deaths of one night are one: somebody kills controllers, or their machine is ill
FORGOTTEN_SECONDS = 30 * 86_400.0
CLOSING_TRIES = 3

Moments = Mapping[str, tuple[float, ...]]
"""Unit key -> when attempts at it alone began that have not ended, in ascending order; none where it had company."""


@dataclass(slots=True)
class Journal:
    """One run's own entries."""

    store: ObjectStore
    run_id: str
    pages: int = 0
    page_of: dict[str, str] = field(default_factory=dict)
    """Attempt -> the object that names it."""
    open: dict[str, set[str]] = field(default_factory=dict)
    """Object -> those of its attempts that have not ended."""
    ended: list[str] = field(default_factory=list)
    """Objects without such attempts that are still to be removed."""

    def begin(self, starts: Sequence[Start], at: float) -> None:
        """Writes down what is to start. Errors: those of the store; then nothing of it may start."""
        page = f"{PREFIX}{self.run_id}/{self.pages:08d}.json"
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
            self._remove_ended()

    def close(self) -> None:
        """The run ends: tries a few times more to remove what could not be removed."""
        for _ in range(CLOSING_TRIES):
            self._remove_ended()

    def _remove_ended(self) -> None:
        with suppress(
            StoreError, Unreachable
        ):  # tried again later; left behind, it costs a later run a little care
            while self.ended:
                self.store.delete(self.ended[-1])
                self.ended.pop()


def left(store: ObjectStore, threads: int = THREADS) -> Moments:
    """What runs have left behind, or have under way now."""
    found: dict[str, list[float]] = {}
    for _, at, attempts in _entries(store, threads):
        for units in attempts:
            for unit_key in units:
                found.setdefault(unit_key, []).extend([at] if len(units) == 1 else [])
    return {key: tuple(sorted(moments)) for key, moments in found.items()}


def settle(store: ObjectStore, done: Collection[str], at: float) -> None:
    """Removes what needs no more attention: every unit of it has a result, or it is a month old."""
    _remove(
        store,
        (
            key
            for key, begun, attempts in _entries(store)
            if at - begun > FORGOTTEN_SECONDS or all(unit in done for units in attempts for unit in units)
        ),
    )


def lift(store: ObjectStore, unit_keys: Iterable[str]) -> None:
    """Lets these units be tried again: removes whatever names one of them."""
    wanted = frozenset(unit_keys)
    _remove(
        store,
        (
            key
            for key, _, attempts in _entries(store)
            if any(not wanted.isdisjoint(units) for units in attempts)
        ),
    )


def blamed(moments: Moments) -> dict[str, Failure]:
    """Unit key -> why it is tried no more: run after run died while it was under way alone."""
    deaths = {key: _deaths(begun) for key, begun in moments.items()}
    return {
        key: Failure(
            failure_class=FailureClass.POISON, error=f"it was under way alone when each of {count} runs died"
        )
        for key, count in deaths.items()
        if count >= POLICY[FailureClass.POISON].tries
    }


def reasons(found: Mapping[str, Failure]) -> dict[str, str]:
    """The same in the words of a plan."""
    return {key: f"{failure.failure_class}: {failure.error}" for key, failure in found.items()}


def condemn(store: ObjectStore, plan: Plan, found: Mapping[str, Failure], run_id: str, at: float) -> None:
    """Puts those of the plan's units into quarantine that are blamed."""
    for key in plan.quarantined:
        if key in found:
            quarantine.put(store, plan.units[key], found[key], run_id, at)


def _deaths(moments: tuple[float, ...]) -> int:
    """How many of these moments lie far enough apart to be told from each other."""
    count, last = 0, float("-inf")
    for moment in moments:
        if moment - last >= APART_SECONDS:
            count, last = count + 1, moment
    return count


def _entries(store: ObjectStore, threads: int = THREADS) -> Iterator[tuple[str, float, list[list[str]]]]:
    """Each object with its moment and its attempts' units; what is no entry has none.

    What is gone meanwhile, or cannot be read now, is left out: it can only bring less care.
    """
    keys = [stat.key for stat in store.list(PREFIX)]
    read = partial(_read, store)
    return filter(None, map(read, keys) if threads == 1 else mapped(read, keys, threads))


def _read(store: ObjectStore, key: str) -> tuple[str, float, list[list[str]]] | None:
    try:
        match json.loads(store.get(key)):
            case {"at": int() | float() as at, "attempts": dict(attempts)}:
                return key, float(at), [[str(unit) for unit in units] for units in attempts.values()]
    except (NotFound, StoreError, Unreachable):
        return None
    except (ValueError, TypeError):
        pass
    return key, 0.0, []


def _remove(store: ObjectStore, keys: Iterable[str]) -> None:
    for key in list(keys):
        store.delete(key)

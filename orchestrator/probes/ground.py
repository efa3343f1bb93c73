"""Effects. Where a store is probed: a prefix of its own, several connections, racers, and nothing left behind."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from orchestrator.errors import PrunefleetError
from orchestrator.ports import ObjectStore
from orchestrator.stores.local import LocalStore
from orchestrator.wording import count

PREFIX = "doctor/"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How hard a store is tried."""

    rounds: int = 20
    racers: int = 8
    keys: int = 1050
    """To list; more than 1,000 is more than one page of S3."""
    large_bytes: int = 20 << 20
    """Above 16 MiB an S3 store sends a file in parts."""


THOROUGH = Effort(rounds=100, racers=32, keys=2100, large_bytes=64 << 20)


class Partial(Protocol):
    """Uploads in parts, where a store has them."""

    def begin(self, key: str, data: bytes) -> Any:
        """Begins an upload and sends one part."""

    def abandon(self, upload: Any) -> None:
        """Gives it up."""

    def unfinished(self, prefix: str) -> Iterator[Any]:
        """Those that were begun and not given up."""


@dataclass(slots=True)
class Ground:
    """One probe of one store; every key that it hands out is removed at the end."""

    stores: Sequence[ObjectStore]
    """One connection for each racer."""
    effort: Effort
    partial: Partial | None = None
    prefix: str = field(default_factory=lambda: f"{PREFIX}{secrets.token_hex(8)}/")
    used: set[str] = field(default_factory=set)

    @property
    def first(self) -> ObjectStore:
        """The connection that writes where one writes and others look."""
        return self.stores[0]

    def other(self, number: int) -> ObjectStore:
        """A connection that is not the first, if there are several."""
        return self.stores[1 + number % (len(self.stores) - 1)] if len(self.stores) > 1 else self.stores[0]

    def key(self, name: str) -> str:
        """A key of our own."""
        key = self.prefix + name
        self.used.add(key)
        return key

    def race(self, work: Callable[[ObjectStore, int], T]) -> list[T]:
        """What `work(store, racer)` gives for each racer; all begin together, each on its own connection."""
        barrier = threading.Barrier(self.effort.racers)

        def run(number: int) -> T:
            store = self.stores[number % len(self.stores)]
            barrier.wait()
            return work(store, number)

        with ThreadPoolExecutor(self.effort.racers) as pool:
            return list(pool.map(run, range(self.effort.racers)))

    def each(self, work: Callable[[ObjectStore, T], object], items: Sequence[T]) -> None:
        """`work(store, item)` for every item, on all connections at once."""

        def run(numbered: tuple[int, T]) -> None:
            work(self.stores[numbered[0] % len(self.stores)], numbered[1])

        with ThreadPoolExecutor(len(self.stores)) as pool:
            for _ in pool.map(run, enumerate(items)):
                pass

    def clear(self) -> str:
        """Removes everything; what could not be removed, in words."""
        try:
            there = {key for key, _ in listed(self.first, self.prefix)}
            self.each(lambda store, key: store.delete(key), sorted(self.used | there))
            if isinstance(self.first, LocalStore):
                self.first.tidy(self.prefix)
            for upload in self.partial.unfinished(self.prefix) if self.partial else ():
                self.partial.abandon(upload)  # type: ignore[union-attr]
        except PrunefleetError as error:
            return f"{self.prefix} may be left in the store: {error}"
        left = [key for key, _ in listed(self.first, self.prefix)]
        return (
            f"{count(len(left), 'object')} left below {self.prefix}, for example {left[0]!r}" if left else ""
        )


@contextmanager
def watched(
    stores: Sequence[ObjectStore], look: Callable[[ObjectStore], T], seconds: float = 60.0
) -> Iterator[list[list[T]]]:
    """What each of these connections saw, looking again and again while the block lasts, once at least."""
    done = threading.Event()
    started = threading.Barrier(len(stores) + 1)

    def run(store: ObjectStore) -> list[T]:
        try:
            seen = [look(store)]
        finally:
            started.wait(seconds)
        until = time.monotonic() + seconds
        while not done.is_set() and time.monotonic() < until:
            seen.append(look(store))
        return [*seen, look(store)]

    seen: list[list[T]] = []
    with ThreadPoolExecutor(len(stores)) as pool:
        futures = [pool.submit(run, store) for store in stores]
        try:
            started.wait(seconds)
            yield seen
        finally:
            done.set()
        seen.extend(future.result() for future in futures)


def listed(store: ObjectStore, prefix: str) -> list[tuple[str, int]]:
    """Key and size of everything below a prefix, as the store lists it."""
    return [(found.key, found.bytes) for found in store.list(prefix)]

"""Effects. An object store in memory, with flaws on request, and views of it on which weather strikes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from orchestrator.errors import NotFound, NotPermitted, StoreError, Unreachable
from orchestrator.ports import Stat
from orchestrator.simulation.weather import Site, Strike
from orchestrator.stores.keys import check_folder, check_key, check_prefix, check_swapped

FRESH_SECONDS = 60.0  # how long a stale listing does not know of an object

Answer = TypeVar("Answer")


class Flaw(StrEnum):
    """A way in which look-alikes of S3 differ from it."""

    IGNORES_IF_NONE_MATCH = "ignores If-None-Match"
    IGNORES_IF_MATCH = "ignores If-Match"
    LISTS_LATE = "lists late"
    READS_OLD = "reads an overwritten object's former bytes"
    CUTS_LONG_OBJECTS = "cuts long objects"
    FORGETS_DELETES = "forgets deletes"
    LISTS_UNSORTED = "lists in no order"


class Crashed(BaseException):
    """The process that used the store died here; nobody but the simulator may catch it."""


@dataclass(slots=True, weakref_slot=True, eq=False)
class MemoryStore:
    """An ObjectStore that is a dictionary; strict, unless it is given flaws."""

    now: Callable[[], float] = lambda: 0.0
    flaws: Collection[Flaw] = ()
    written: Callable[[str, bytes | None, bytes], None] = lambda key, before, after: None
    """Told of every write: the key, what was there, what is there now."""
    objects: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    modified: dict[str, float] = field(default_factory=dict)
    former: dict[str, bytes] = field(default_factory=dict)
    writes: int = 0

    @property
    def url(self) -> str:
        """Nowhere else."""
        return "memory:"

    def get(self, key: str) -> bytes:
        """The whole object."""
        if check_key(key) not in self.objects:
            raise NotFound(f"{key} is not in {self.url}")
        if Flaw.READS_OLD in self.flaws and key in self.former:
            return self.former.pop(key)
        data = self.objects[key]
        return data[: 1 << 12] if Flaw.CUTS_LONG_OBJECTS in self.flaws else data

    def put(self, key: str, data: bytes) -> None:
        """Writes or overwrites."""
        before = self.objects.get(check_key(key))
        if before is not None:
            self.former[key] = before
        self.writes += 1
        self.objects[key] = bytes(data)
        self.etags[key] = f"{self.writes}"
        self.modified[key] = self.now()
        self.written(key, before, self.objects[key])

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Creates."""
        if check_key(key) in self.objects and Flaw.IGNORES_IF_NONE_MATCH not in self.flaws:
            return False
        self.put(key, data)
        return True

    def swap(self, key: str, data: bytes, etag: str | None) -> str | None:
        """Replaces what still has this etag."""
        check_swapped(key, data, etag)
        if etag is None:
            return self.etags[key] if self.put_if_absent(key, data) else None
        if self.etags.get(check_key(key)) != etag and Flaw.IGNORES_IF_MATCH not in self.flaws:
            return None
        self.put(key, data)
        return self.etags[key]

    def stat(self, key: str) -> Stat | None:
        """The object's size and etag, or None."""
        if check_key(key) not in self.objects:
            return None
        return Stat(key=key, bytes=len(self.objects[key]), etag=self.etags[key], modified=self.modified[key])

    def list(self, prefix: str) -> Iterator[Stat]:
        """Every object whose key starts with `prefix`, in key order, without etags."""
        return iter(self.listing(prefix, fresh=Flaw.LISTS_LATE not in self.flaws))

    def listing(self, prefix: str, *, fresh: bool = True) -> Sequence[Stat]:
        """The same at once; without what is fresh, it is what a store tells whose listings lag behind."""
        check_prefix(prefix)
        keys = [key for key in self.objects if key.startswith(prefix)]
        return [
            Stat(key=key, bytes=len(self.objects[key]), etag="", modified=self.modified[key])
            for key in (keys if Flaw.LISTS_UNSORTED in self.flaws else sorted(keys))
            if fresh or self.now() - self.modified[key] > FRESH_SECONDS
        ]

    def folders(self, prefix: str) -> Iterator[str]:
        """What follows the prefix up to the next slash, each once, as a list shows them."""
        below = (found.key.removeprefix(check_folder(prefix)) for found in self.list(prefix))
        return iter(dict.fromkeys(rest.split("/")[0] for rest in below if "/" in rest))

    def delete(self, key: str) -> None:
        """Removes the object; no error if it is not there."""
        check_key(key)
        if Flaw.FORGETS_DELETES not in self.flaws:
            for part in (self.objects, self.etags, self.modified):
                part.pop(key, None)

    def upload(self, path: Path, key: str) -> None:
        """Writes a file."""
        self.put(key, path.read_bytes())

    def download(self, key: str, path: Path) -> None:
        """Reads into a new file."""
        path.write_bytes(self.get(key))


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True, eq=False)
class View:
    """One actor's way to the store: each call is an effect that weather may strike."""

    store: MemoryStore
    actor: str
    strikes: Callable[[Site], Strike | None]
    pause: Callable[[], None]
    """Lets others go on for a while."""
    is_alive: Callable[[], bool]
    """Whether the actor still is, once it has paused."""

    @property
    def url(self) -> str:
        """That of the store."""
        return self.store.url

    def get(self, key: str) -> bytes:
        """The whole object, or what a torn connection left of it."""
        strike, data = self._effect("get", key, lambda: self.store.get(key))
        return data[: len(data) // 2] if strike is Strike.GARBLED else data

    def put(self, key: str, data: bytes) -> None:
        """Writes or overwrites."""
        self._effect("put", key, lambda: self.store.put(key, data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Creates."""
        return self._effect("put_if_absent", key, lambda: self.store.put_if_absent(key, data))[1]

    def swap(self, key: str, data: bytes, etag: str | None) -> str | None:
        """Replaces what still has this etag."""
        return self._effect("swap", key, lambda: self.store.swap(key, data, etag))[1]

    def stat(self, key: str) -> Stat | None:
        """The object's size and etag, or None."""
        return self._effect("stat", key, lambda: self.store.stat(key))[1]

    def list(self, prefix: str) -> Iterator[Stat]:
        """Every object whose key starts with `prefix`; read at once."""
        strike, found = self._effect("list", prefix, lambda: self.store.listing(prefix))
        return iter(self.store.listing(prefix, fresh=False) if strike is Strike.STALE else found)

    def folders(self, prefix: str) -> Iterator[str]:
        """What follows the prefix up to the next slash; read at once."""
        return iter(self._effect("list", prefix, lambda: list(self.store.folders(prefix)))[1])

    def delete(self, key: str) -> None:
        """Removes the object."""
        self._effect("delete", key, lambda: self.store.delete(key))

    def upload(self, path: Path, key: str) -> None:
        """Writes a file."""
        self._effect("upload", key, lambda: self.store.upload(path, key))

    def download(self, key: str, path: Path) -> None:
        """Reads into a new file."""
        strike, _ = self._effect("download", key, lambda: self.store.download(key, path))
        if strike is Strike.GARBLED:
            path.write_bytes(path.read_bytes()[:-1])

    def _effect(self, verb: str, key: str, apply: Callable[[], Answer]) -> tuple[Strike | None, Answer]:
        strike = self.strikes(Site(self.actor, verb, key))
        match strike:
            case Strike.CRASH_BEFORE:
                raise Crashed
            case Strike.LOST:
                raise Unreachable(f"{verb} {key}: no answer")
            case Strike.REFUSED:
                raise StoreError(f"{verb} {key}: 503 SlowDown")
            case Strike.DENIED:
                raise NotPermitted(f"{verb} {key}: 403")
            case Strike.PAUSE:
                self.pause()
                if not self.is_alive():
                    raise Crashed
        answer = apply()
        match strike:
            case Strike.CRASH_AFTER:
                raise Crashed
            case Strike.AMBIGUOUS:
                raise Unreachable(f"{verb} {key}: it was done, and no answer came")
        return strike, answer

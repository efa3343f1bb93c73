"""Pure. What the controller asks of the world: Protocols, no implementation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.domain import Failure, ModelVersion, Pool, Shard, UnitReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """One object in a listing."""

    key: str
    bytes: int
    etag: str
    modified: float = 0.0
    """Seconds since the epoch, by the store's clock; decides only what is old enough to be collected."""


class ObjectStore(Protocol):
    """Named bytes. Keys are relative, `/`-separated, without empty, `.` or `..` parts; other keys raise StoreError.

    Errors: NotFound, NotPermitted (401/403), Unreachable (no answer after the store's own retries), StoreError.
    """

    @property
    def url(self) -> str:
        """Where it is, without credentials."""

    def get(self, key: str) -> bytes:
        """The whole object."""

    def put(self, key: str, data: bytes) -> None:
        """Writes or overwrites, atomically for readers."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Creates; True if this call's bytes are now there, False if the key existed before.

        An unknown outcome (timeout, reset) is read back, so that the answer is about the store and not about the reply.
        """

    def swap(self, key: str, data: bytes, etag: str | None) -> str | None:
        """Replaces the object only if its etag is still `etag` (None: only if absent); the new etag, or None if it lost."""

    def stat(self, key: str) -> Stat | None:
        """The object's size and etag, or None."""

    def list(self, prefix: str) -> Iterator[Stat]:
        """Every object whose key starts with `prefix`, in key order."""

    def folders(self, prefix: str) -> Iterator[str]:
        """What follows `prefix`, which is empty or ends with a slash, up to the next slash: each once, in key order."""

    def delete(self, key: str) -> None:
        """Removes the object; no error if it is not there."""

    def upload(self, path: Path, key: str) -> None:
        """Writes a file of any size, with bounded memory."""

    def download(self, key: str, path: Path) -> None:
        """Reads into a new file of any size, with bounded memory."""


class Registry(Protocol):
    """A place where model versions live."""

    name: str

    def scan(self) -> Iterator[ModelVersion]:
        """Every version, broken ones too (with `problem` set), in a stable order."""

    def fetch(self, model: ModelVersion, into: Path) -> None:
        """Copies a version's files into an empty directory and checks them against its digest.

        Errors: ModelChanged (what is there is not what was planned), RegistryError.
        """


class Shelf(Protocol):
    """One model's versions and aliases in a registry, open to one writer."""

    def find(self, label: str) -> str | None:
        """The version that was published under this label, or None. Errors: RegistryError."""

    def place(
        self,
        label: str,
        fill: Callable[[Path], None],
        lineage: Mapping[str, str],
        seal: Callable[[Path], None] | None = None,
    ) -> str:
        """Makes a version, whole or not at all, of what `fill(empty directory)` writes; the name it has in the registry.

        `lineage` says what it was made from; a registry that has tags shows it there. `seal` signs what then lies in that
        directory, with all that the shelf itself `adds`: what is sealed is what users download. Errors: RegistryError, NotPermitted.
        """

    def has(self, version: str) -> bool:
        """Whether there is such a version. Errors: RegistryError."""

    def aliases(self) -> Mapping[str, str]:
        """Alias -> version. Errors: RegistryError."""

    def point(self, alias: str, version: str, previous: str | None) -> None:
        """Moves an alias that points to `previous` (None: there is none).

        Errors: AliasMoved, where the registry can tell that it points elsewhere by now; RegistryError, NotPermitted.
        """


class Outlet(Protocol):
    """The writing side of a registry: where versions are published and aliases moved."""

    name: str
    locks: bool
    """Whether a shelf keeps everybody else away as long as it is open."""
    adds: frozenset[str]
    """Names of the files that a shelf puts beside those of a version."""

    @property
    def url(self) -> str:
        """Where it is, without credentials."""

    def shelf(self, model: str, *, make: bool) -> AbstractContextManager[Shelf]:
        """A model's versions, for this writer as long as the block lasts; the model is made if `make`.

        Where the registry has locks, nobody else writes there meanwhile. Errors: RegistryError (a hostile name, no such
        model), NotPermitted, Unreachable.
        """

    def aliases(self, model: str) -> Mapping[str, str]:
        """Alias -> version of one model, without any lock; empty if there is no such model. Errors: RegistryError."""

    def opened(self, model: str, version: str) -> AbstractContextManager[Path]:
        """A local directory with exactly the files of a version and what its shelf added, as long as the block lasts.

        Errors: NoSuchVersion, RegistryError, Unreachable.
        """

    def probe(self) -> str:
        """Where it would write, having found that it may. Errors: NotPermitted, RegistryError, Unreachable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A shard on its way to a worker: all it needs to know, as JSON values."""

    attempt_id: str
    shard: Shard
    pool: Pool
    payload: Any
    """What `worker.run_shard` is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnded:
    """An attempt is over: either its units have reports, or the attempt itself died."""

    attempt_id: str
    reports: tuple[UnitReport, ...] = ()
    failure: Failure | None = None
    node: str = ""
    wall_seconds: float = 0.0
    """That its worker was at work, by the worker's own clock; of one that died without a word, all since its submission."""


class Backend(Protocol):
    """Where attempts run."""

    def capacity(self) -> dict[str, int]:
        """Slots that each pool has right now; 0 for a pool whose nodes are not there."""

    def largest_nodes(self) -> dict[str, int]:
        """Bytes of memory that a shard can have at most on each pool's largest node; a pool of which that is not known is absent."""

    def submit(self, assignment: Assignment) -> None:
        """Starts an attempt; returns at once."""

    def wait(self, seconds: float) -> Sequence[AttemptEnded]:
        """Attempts that ended, waiting at most so long for the first one."""

    def cancel(self, attempt_id: str, *, force: bool) -> None:
        """Asks an attempt to stop, or kills it; its end is still reported by `wait`."""

    def close(self) -> None:
        """Gives back what it holds."""


class Clock(Protocol):
    """The only source of time."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def sleep(self, seconds: float) -> None:
        """Lets time pass."""


Connect = Callable[[Mapping[str, Pool], Callable[[Any], Any]], Backend]
"""Pools and the body of an attempt -> the backend that runs them; called when a run first has something to do."""

"""Effects. Leases in the store: one owner at a time, by compare-and-swap; for what is not idempotent only.

Clocks decide when another may try, never who owns: two that try at once swap the same object, and one loses. Whoever
works under a lease carries its epoch, which only grows, so that what a late owner does can be told and refused.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from weakref import WeakSet

from orchestrator.errors import Damaged, NotFound, NotSupported
from orchestrator.ports import ObjectStore

PREFIX = "leases/"
NOBODY = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What the lease's object says."""

    owner: str
    """Who has it; empty once it was given back."""
    epoch: int
    """Grows with every new owner, from 1."""
    expires: float
    """Seconds since the epoch, after which others may take it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A lease that is ours, as long as nobody took it over."""

    name: str
    lease: Lease
    etag: str
    """Of the object that we wrote; whoever takes over changes it."""


_HONOURING: WeakSet[ObjectStore] = WeakSet()
"""Stores that were found to keep the conditions of writes; each is asked once in a process."""


def lease_key(name: str) -> str:
    """Where a lease stands."""
    return f"{PREFIX}{name}.json"


def claimed(current: Lease | None, owner: str, at: float, seconds: float) -> Lease | None:
    """The lease that `owner` may write over `current` (None: there is none), or None while another has it."""
    if current is None:
        return Lease(owner=owner, epoch=1, expires=at + seconds)
    if current.owner == NOBODY or current.expires <= at:
        return Lease(owner=owner, epoch=current.epoch + 1, expires=at + seconds)
    if current.owner == owner:
        return replace(current, expires=max(current.expires, at + seconds))
    return None


def acquire(store: ObjectStore, name: str, owner: str, at: float, seconds: float) -> Held | None:
    """Takes a lease that is free, expired, or ours already; None while another has it.

    `owner` names one process and no other. Errors: NotSupported, if the store ignores the conditions of writes; Damaged.
    """
    if store not in _HONOURING:
        check_swaps(store)
        _HONOURING.add(store)
    found = _read(store, name)
    current, etag = found if found else (None, None)
    wanted = claimed(current, owner, at, seconds)
    return _write(store, name, wanted, etag) if wanted else None


def renew(store: ObjectStore, held: Held, at: float, seconds: float) -> Held | None:
    """Holds it for longer; None if it is lost: the work that it guards must stop."""
    return _write(store, held.name, replace(held.lease, expires=at + seconds), held.etag)


def release(store: ObjectStore, held: Held) -> bool:
    """Gives it back, keeping its epoch; False if it was lost before."""
    return _write(store, held.name, replace(held.lease, owner=NOBODY, expires=0.0), held.etag) is not None


def holder(store: ObjectStore, name: str) -> Lease | None:
    """The lease as it stands; None if nobody ever had it. Errors: Damaged."""
    found = _read(store, name)
    return found[0] if found else None


def check_swaps(store: ObjectStore) -> None:
    """Errors: NotSupported, if the store lacks conditional writes or ignores their conditions.

    Finds what is ignored always; what goes wrong only in a race is found by `prunefleet doctor`.
    """
    key = f"doctor/lease-{secrets.token_hex(8)}"
    with _removed(store, key):
        first = store.swap(key, b"1", None)
        second = store.swap(key, b"2", first) if first else None
        honours = second and store.swap(key, b"3", first) is None and store.swap(key, b"4", None) is None
        if not honours:
            raise NotSupported(
                f"{store.url} ignores the conditions of writes, so nothing can be leased there; "
                "see that only one process at a time does what must not be done twice (UNSAFE)"
            )


@contextmanager
def _removed(store: ObjectStore, key: str) -> Iterator[None]:
    try:
        yield
    finally:
        store.delete(key)


def _read(store: ObjectStore, name: str) -> tuple[Lease, str] | None:
    """The lease and the etag under which it was there, or an older one: then the swap that follows loses."""
    key = lease_key(name)
    there = store.stat(key)
    if there is None:
        return None
    try:
        return _parsed(store.get(key)), there.etag
    except NotFound:
        return None
    except (ValueError, TypeError, RecursionError) as error:
        raise Damaged(
            f"{key} in {store.url} is no lease ({error}); delete it when nobody can hold it any more"
        ) from error


def _parsed(data: bytes) -> Lease:
    match json.loads(data):
        case {"owner": str(owner), "epoch": int(epoch), "expires": int() | float() as expires} if epoch > 0:
            return Lease(owner=owner, epoch=epoch, expires=float(expires))
    raise ValueError("owner, epoch and expires are not all there")


def _write(store: ObjectStore, name: str, lease: Lease, etag: str | None) -> Held | None:
    written = store.swap(lease_key(name), json.dumps(asdict(lease)).encode(), etag)
    return Held(name=name, lease=lease, etag=written) if written else None

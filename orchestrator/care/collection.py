"""Effects. Removes what nothing points to: marks by listing, decides purely, looks again right before each removal."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator import leases, quarantine
from orchestrator.artifacts import LISTING
from orchestrator.care import remains
from orchestrator.care.garbage import Doomed, Facts, Kind, Limits, Thing, garbage, held_back, is_old, thing_of
from orchestrator.datafiles import find_data
from orchestrator.domain import TaskName
from orchestrator.errors import Damaged, Interrupted, NotFound, NotSupported
from orchestrator.inflight import mapped
from orchestrator.names import is_sha256
from orchestrator.nights import nightrecords
from orchestrator.ports import ObjectStore, Stat
from orchestrator.probes import ground
from orchestrator.promotion import promoting
from orchestrator.spec import Fleet
from orchestrator.stores.local import LocalStore
from orchestrator.stores.multipart import Unfinished, uploads_of
from orchestrator.tables import listing, results

LEASE = "gc"
LEASE_SECONDS = 600.0
THREADS = 16

_UPLOADED = ("artifacts/", "data/", "tables/", ground.PREFIX)
"""Where prunefleet uploads in parts; what others upload into the same bucket is theirs."""
_POINTERS = ("promotions/", "promotions-begun/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """What may go, and what is needed to remove it."""

    doomed: tuple[Doomed, ...]
    held_back: tuple[str, ...]
    limits: Limits
    uploads: Mapping[str, Unfinished]


@dataclass(slots=True)
class Swept:
    """What was removed, and what turned out to be needed or new."""

    removed: list[Doomed] = field(default_factory=list)
    spared: list[Doomed] = field(default_factory=list)


@dataclass(slots=True)
class Sweep:
    """The right to remove, for one at a time."""

    store: ObjectStore
    held: leases.Held | None
    at: float
    """Now, by the store's own clock, when the sweep began."""
    warning: str = ""

    def go_on(self) -> None:
        """Keeps the right. Errors: Interrupted, if another has it now."""
        now = time.time()
        if self.held is None or self.held.lease.expires - now > LEASE_SECONDS / 2:
            return
        renewed = leases.renew(self.store, self.held, now, LEASE_SECONDS)
        if renewed is None:
            raise Interrupted("another gc took the lease over; what was removed stays removed")
        self.held = renewed


@contextmanager
def sweeping(store: ObjectStore) -> Iterator[Sweep]:
    """The right to sweep, as long as the block lasts. Errors: Interrupted, if another has it.

    On a store that ignores conditions there is no such right; then `warning` says so.
    """
    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    try:
        held = leases.acquire(store, LEASE, owner, time.time(), LEASE_SECONDS)
    except NotSupported as error:
        yield Sweep(store=store, held=None, at=time.time(), warning=f"UNSAFE: {error}")
        return
    if held is None:
        other = leases.holder(store, LEASE)
        who = other.owner if other else "another"
        raise Interrupted(f"a gc of {who} is going on in {store.url}; try again when it has ended")
    written = store.stat(leases.lease_key(LEASE))
    sweep = Sweep(
        store=store, held=held, at=written.modified if written and written.modified else time.time()
    )
    try:
        yield sweep
    finally:
        if sweep.held is not None:
            leases.release(store, sweep.held)


def mark(store: ObjectStore, fleet: Fleet | None, limits: Limits) -> Marked:
    """What may go now. What could be garbage is listed before what points to it, so that nothing new is missed."""
    uploads = {upload.name: upload for upload in _unfinished(store)}
    nights, nights_needed = remains.nights(store)
    things = (
        *_things(store, limits),
        *nights,
        *remains.proposals(store),
        *_asides(store, limits),
        *_parts(store, uploads.values()),
    )
    done = listing.listing(store)
    artifacts, unreadable = _artifacts_needed(store, done)
    proposed = remains.proposed(store)
    rows, damaged = _pointers(store)
    facts = Facts(
        things=things,
        artifacts=artifacts.union(
            (str(row.get("artifact_digest")) for row in rows),
            (proposal.artifact_digest for proposal in proposed.known.values()),
        ),
        unreadable=(*unreadable, *damaged, *proposed.unreadable),
        done=frozenset(done.results),
        data=_data_wanted(fleet),
        is_running=_is_running(store, limits),
        runs=frozenset(str(row.get("run_id")) for row in rows),
        nights=nights_needed,
        proposals=remains.proposals_needed(proposed, rows, fleet, limits.at),
    )
    return Marked(
        doomed=garbage(facts, limits), held_back=tuple(held_back(facts)), limits=limits, uploads=uploads
    )


def sweep_away(sweep: Sweep, marked: Marked, watch: Callable[[Doomed], None] = lambda _: None) -> Swept:
    """Removes what is marked, except what has become young since: it is in use again. Errors: Interrupted."""
    swept = Swept()
    for doomed in marked.doomed:
        sweep.go_on()
        thing = _as_it_is_now(sweep.store, doomed.thing)
        if not thing.keys:
            continue
        is_needed = thing.kind is Kind.DATASET and _is_running(sweep.store, marked.limits)
        if is_needed or not is_old(thing, marked.limits):
            swept.spared.append(doomed)
            continue
        _remove(sweep.store, thing, marked.uploads)
        swept.removed.append(doomed)
        watch(doomed)
    return swept


def _things(store: ObjectStore, limits: Limits) -> Iterator[Thing]:
    """Everything in the store that could be garbage, of the kinds that are asked for."""
    for name, objects in _grouped(store, "artifacts/"):
        if is_sha256(name):
            yield _artifact(name, objects)
    for found in store.list("data/"):
        if is_sha256(name := found.key.removeprefix("data/")):
            yield thing_of(Kind.DATASET, name, [found])
    for found in store.list(quarantine.PREFIX):
        name = found.key.removeprefix(quarantine.PREFIX).removesuffix(".json")
        if is_sha256(name):
            yield thing_of(Kind.QUARANTINE, name, [found])
    for name, objects in _grouped(store, ground.PREFIX):
        yield thing_of(Kind.PROBE, name, objects)
    if limits.runs_older_than is not None:
        for name, objects in _grouped(store, "runs/"):
            yield thing_of(Kind.RUN, name, objects)


def _folders(thing: Thing) -> tuple[str, ...]:
    """The folders that hold nothing but the thing."""
    match thing.kind:
        case Kind.ARTIFACT | Kind.HALF_ARTIFACT:
            return (f"artifacts/{thing.name}/",)
        case Kind.RUN:
            return (f"runs/{thing.name}/",)
        case Kind.PROBE:
            return (f"{ground.PREFIX}{thing.name}/",)
        case Kind.PROPOSAL:
            return (f"{promoting.PREFIX}{thing.name}/",)
        case Kind.NIGHT | Kind.HALF_NIGHT:
            return nightrecords.folders(*thing.name.split("/"))
        case _:
            return ()


def _grouped(store: ObjectStore, prefix: str) -> Iterator[tuple[str, list[Stat]]]:
    """The objects below a prefix, by the next part of their keys."""
    found: dict[str, list[Stat]] = {}
    for one in store.list(prefix):
        found.setdefault(one.key.removeprefix(prefix).split("/")[0], []).append(one)
    yield from found.items()


def _artifact(name: str, objects: Sequence[Stat]) -> Thing:
    """Its list of files goes first: without it, it is no artifact any more."""
    listed = f"artifacts/{name}/{LISTING}"
    in_order = sorted(objects, key=lambda one: (one.key != listed, one.key))
    is_whole = any(one.key == listed for one in objects)
    return thing_of(Kind.ARTIFACT if is_whole else Kind.HALF_ARTIFACT, name, in_order)


def _asides(store: ObjectStore, limits: Limits) -> Iterator[Thing]:
    if isinstance(store, LocalStore):
        for path in store.leftovers(limits.at - limits.older_than):
            status = path.lstat()
            yield Thing(
                kind=Kind.ASIDE,
                name=str(path),
                keys=(str(path),),
                bytes=status.st_size,
                modified=status.st_mtime,
            )


def _unfinished(store: ObjectStore) -> Iterator[Unfinished]:
    if (uploads := uploads_of(store)) is not None:
        for prefix in _UPLOADED:
            yield from uploads.unfinished(prefix)


def _parts(store: ObjectStore, found: Iterable[Unfinished]) -> Iterator[Thing]:
    uploads = uploads_of(store)
    for one in found if uploads else ():
        assert uploads
        try:
            size = uploads.bytes_of(one)
        except NotFound:
            continue
        yield Thing(kind=Kind.UPLOAD, name=one.name, keys=(one.key,), bytes=size, modified=one.began)


def _artifacts_needed(store: ObjectStore, done: listing.Listing) -> tuple[frozenset[str], tuple[str, ...]]:
    """Digests that results point to, and the keys of the results that cannot be read."""

    def read(unit_key: str) -> tuple[str, list[str] | None]:
        key = listing.result_key(TaskName.PRUNE, unit_key)
        try:
            rows = results.read(store, TaskName.PRUNE, unit_key).rows("artifacts")
            return key, [str(row["digest"]) for row in rows]
        except NotFound:
            return key, []
        except Damaged:
            return key, None

    prunes = (key for key, (task, _) in done.results.items() if task == TaskName.PRUNE)
    found = list(mapped(read, prunes, THREADS))
    unreadable = [key for key, digests in found if digests is None]
    if done.foreign:
        known = {listing.result_key(task, key) for key, (task, _) in done.results.items()}
        listed = (one.key for one in store.list(listing.PREFIX))
        unreadable += [key for key in listed if key.endswith(".arrow") and key not in known]
    return frozenset(digest for _, digests in found for digest in digests or ()), tuple(unreadable)


def _pointers(store: ObjectStore) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Records of publications, made or begun; and those that cannot be read."""
    rows: list[Mapping[str, Any]] = []
    damaged: list[str] = []
    for found in itertools.chain.from_iterable(store.list(prefix) for prefix in _POINTERS):
        try:
            row = json.loads(store.get(found.key))
        except NotFound:
            continue
        except (ValueError, RecursionError, Damaged):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            damaged.append(found.key)
    return rows, damaged


def _data_wanted(fleet: Fleet | None) -> frozenset[str] | None:
    if fleet is None:
        return None
    files = find_data(fleet).values()
    return None if any(file.problem for file in files) else frozenset(file.digest for file in files)


def _is_running(store: ObjectStore, limits: Limits) -> bool:
    """Whether a run wrote its status within the limit, and did not say that it ended."""
    for found in store.list("runs/"):
        is_status = found.key.endswith("/status.json") and found.key.count("/") == 2
        if is_status and limits.at - found.modified < limits.older_than and not _has_ended(store, found.key):
            return True
    return False


def _has_ended(store: ObjectStore, key: str) -> bool:
    try:
        status = json.loads(store.get(key))
    except NotFound:
        return True
    except (ValueError, RecursionError, Damaged):
        return False
    return isinstance(status, dict) and status.get("state") == "ended"


def _as_it_is_now(store: ObjectStore, thing: Thing) -> Thing:
    """The same thing with the objects, sizes and ages that it has now; without keys if it is gone."""
    match thing.kind:
        case Kind.ARTIFACT | Kind.HALF_ARTIFACT:
            return _artifact(thing.name, list(store.list(f"artifacts/{thing.name}/")))
        case Kind.RUN | Kind.NIGHT | Kind.HALF_NIGHT | Kind.PROPOSAL:
            objects = itertools.chain.from_iterable(store.list(folder) for folder in _folders(thing))
            return thing_of(thing.kind, thing.name, list(objects))
        case Kind.DATASET | Kind.QUARANTINE | Kind.PROBE:
            there = [found for found in map(store.stat, thing.keys) if found is not None]
            return thing_of(thing.kind, thing.name, there)
        case Kind.ASIDE:
            path = Path(thing.name)
            return replace(thing, keys=thing.keys if os.path.lexists(path) else ())
        case Kind.UPLOAD:
            return thing


def _remove(store: ObjectStore, thing: Thing, found: Mapping[str, Unfinished]) -> None:
    if thing.kind is Kind.ASIDE:
        Path(thing.name).unlink(missing_ok=True)
    elif thing.kind is Kind.UPLOAD:
        uploads = uploads_of(store)
        assert uploads
        uploads.abandon(found[thing.name])
    else:
        for key in thing.keys:
            store.delete(key)
        if isinstance(store, LocalStore):
            for folder in _folders(thing):
                store.tidy(folder)

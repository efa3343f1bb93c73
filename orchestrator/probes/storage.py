"""Effects. What an object store really does, tried with real concurrency under a prefix that is removed afterwards."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.errors import NotPermitted, NotSupported, StoreError, Unreachable
from orchestrator.probes.checks import Check, State
from orchestrator.probes.conditional_writes import creation, swaps
from orchestrator.probes.content import unfinished, whole_bytes
from orchestrator.probes.ground import Ground
from orchestrator.probes.visibility import (
    ODD_KEYS,
    atomic_overwrite,
    listing,
    odd_keys,
    read_after_write,
    removal,
)

MINUTES_APART = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """Something a store has to do, and how it is found out whether it does."""

    name: str
    fine: str
    """What was seen, where nothing is wrong."""
    follows: str
    advice: str
    probe: Callable[[Ground], str]
    """What is wrong; empty if nothing is."""


def probe_store(ground: Ground) -> tuple[Check, ...]:
    """Every property of a store; a store that does not even answer gets one check. Removes what it wrote."""
    first = _answers(ground)
    if first.state not in (State.OK, State.WARNING):
        return (first,)
    try:
        checks = [first, *(_check(ground, item) for item in PROPERTIES)]
    finally:
        left = ground.clear()
    if left:
        advice = "Delete it, or let `prunefleet gc` do so in a week."
        checks.append(_told("cleaning up", State.WARNING, left, "It takes room.", advice))
    return tuple(checks)


def _answers(ground: Ground) -> Check:
    """Whether it takes, gives and removes an object at all; and what its clock says."""
    key, store = ground.key("answers"), ground.first
    follows, advice = (
        "Nothing can run on it.",
        "Correct the store's url, endpoint or credentials, or the bucket's policy.",
    )
    try:
        took = []
        for _ in range(3):
            began = time.perf_counter()
            store.put(key, b"prunefleet doctor")
            took.append(time.perf_counter() - began)
        store.get(key)
        there = store.stat(key)
        store.delete(key)
    except NotPermitted as error:
        return _told("answers", State.DENIED, str(error), follows, advice)
    except Unreachable as error:
        return _told("answers", State.UNREACHABLE, str(error), follows, advice)
    except StoreError as error:
        return _told("answers", State.BROKEN, str(error), follows, advice)
    seen = f"a small write takes {1000 * statistics.median(took):.1f} ms"
    apart = (there.modified - time.time()) / 60 if there else 0.0
    if abs(apart) > MINUTES_APART:
        seen += (
            f"; its clock is {abs(apart):.0f} minutes {'ahead of' if apart > 0 else 'behind'} this machine's"
        )
        follows = "Leases and signatures go by this machine's clock, ages in the store by its own."
        return _told("answers", State.WARNING, seen, follows, "Set this machine's clock.")
    return _told("answers", State.OK, seen, "", "")


def _check(ground: Ground, item: Property) -> Check:
    try:
        problem = item.probe(ground)
    except NotPermitted as error:
        return _told(item.name, State.DENIED, str(error), item.follows, item.advice)
    except Unreachable as error:
        return _told(item.name, State.UNREACHABLE, str(error), item.follows, item.advice)
    except NotSupported as error:
        return _told(item.name, State.UNSUPPORTED, str(error), item.follows, item.advice)
    except StoreError as error:
        return _told(item.name, State.BROKEN, f"it failed: {error}", item.follows, item.advice)
    if problem:
        return _told(item.name, State.BROKEN, problem, item.follows, item.advice)
    effort = ground.effort
    return _told(item.name, State.OK, item.fine.format(effort=effort, partial=ground.partial), "", "")


def _told(name: str, state: State, seen: str, follows: str, advice: str) -> Check:
    return Check(area="store", name=name, state=state, seen=seen, follows=follows, advice=advice)


_SINGLE = "Until then run one controller at a time (UNSAFE), on this store or on none."
_NOT_THIS = "Do not use this store; the local directory, AWS S3 and Ceph's gateway have what is needed."

PROPERTIES: tuple[Property, ...] = (
    Property(
        name="create-only",
        fine="one of {effort.racers} racers created each key, in {effort.rounds} rounds",
        follows="Two controllers would both believe that they were first: batches of the tables and records can be "
        "overwritten, and two computations that differ go unnoticed. Results of units stay right: same key, same content.",
        advice=f"Use a store that honours If-None-Match. {_SINGLE}",
        probe=creation,
    ),
    Property(
        name="swap",
        fine="{effort.racers} racers counted in one register, and none of their swaps was lost or doubled",
        follows="Nothing can be leased, so that nothing keeps two nights or two sweeps from going on at once.",
        advice=f"Use a store that honours If-Match. {_SINGLE}",
        probe=swaps,
    ),
    Property(
        name="read-after-write",
        fine="whatever was written, overwritten or removed was seen at once from another connection",
        follows="Finished units look unfinished and are computed again; a verdict may be read from an older state.",
        advice=_NOT_THIS,
        probe=read_after_write,
    ),
    Property(
        name="atomic overwrite",
        fine="readers of an object that was overwritten saw one whole value each time",
        follows="Status files and records can be read half-written.",
        advice=_NOT_THIS,
        probe=atomic_overwrite,
    ),
    Property(
        name="listing",
        fine="{effort.keys} keys were listed in order and once each, right after writes and removals",
        follows="The plan is a listing: units that it misses are computed again, and `gc` could take for garbage what "
        "is needed.",
        advice=_NOT_THIS,
        probe=listing,
    ),
    Property(
        name="whole bytes",
        fine="objects and a file of {effort.large_bytes} bytes came back as they were written",
        follows="Models and results would be damaged; their digests tell it, and every unit on them fails.",
        advice=_NOT_THIS,
        probe=whole_bytes,
    ),
    Property(
        name="unfinished uploads",
        fine="nothing was seen of a file before all of it was there",
        follows="A worker that dies in the middle would leave half a model that looks whole.",
        advice=_NOT_THIS,
        probe=unfinished,
    ),
    Property(
        name="removal",
        fine="what was removed was gone, and removing it again was no error",
        follows="`gc` and the release of quarantined units fail or change nothing.",
        advice="Let the policy of the bucket permit it, or use another store.",
        probe=removal,
    ),
    Property(
        name="odd keys",
        fine=f"{len(ODD_KEYS)} odd names, some of which differ by case or accent only, stayed apart",
        follows="Files of a model whose names are odd, or differ by case only, can be lost.",
        advice="Keep such names out of the registries, or use another store.",
        probe=odd_keys,
    ),
)

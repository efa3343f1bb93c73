"""Effects. Probes: creating what is not there and replacing what is, with many who try at once."""

from __future__ import annotations

import functools
import json
import time

from orchestrator.errors import Damaged
from orchestrator.ports import ObjectStore
from orchestrator.probes.ground import Ground
from orchestrator.probes.histories import (
    Register,
    Round,
    Swap,
    number_of,
    numbered,
    problem_of_creation,
    problem_of_register,
)


def creation(ground: Ground) -> str:
    """Racers create one key, each with its own bytes; then one comes late."""
    rounds = []
    for number in range(ground.effort.rounds):
        key = ground.key(f"create/{number}")
        told = ground.race(functools.partial(_create, key))
        kept = number_of(ground.other(number).get(key))
        late = ground.other(number + 1).put_if_absent(key, b"late")
        winners = tuple(racer for racer, won in enumerate(told) if won)
        rounds.append(Round(winners=winners, racers=len(told), kept=kept, is_late_winner=late))
    return problem_of_creation(rounds)


def swaps(ground: Ground) -> str:
    """What one alone may and may not replace; then racers count in one register."""
    return _swapped_alone(ground) or problem_of_register(_counted(ground))


def _swapped_alone(ground: Ground) -> str:
    store, key = ground.first, ground.key("swap/alone")
    first = store.swap(key, b"1", None)
    if first is None:
        return "a swap that creates lost, although nothing was there"
    if store.swap(key, b"x", None) is not None:
        return "a swap that only creates replaced what was there"
    second = store.swap(key, b"2", first)
    if second is None:
        return "a swap lost, although its etag was right and nobody else wrote"
    if store.swap(key, b"x", first) is not None:
        return "a swap won with an etag that was replaced before"
    store.put(key, b"3")
    if store.swap(key, b"x", second) is not None:
        return "a swap won with an etag that a plain write had replaced"
    if (held := store.get(key)) != b"3":
        return f"what was there after all is {held[:20]!r}, although the last write that won was b'3'"
    return ""


def _counted(ground: Ground) -> Register:
    key = ground.key("swap/register")
    first = ground.first.swap(key, _count(0, 0, 0), None)
    assert first, "nobody else knows this key"

    def work(store: ObjectStore, racer: int) -> list[Swap]:
        swaps = []
        for serial in range(ground.effort.rounds):
            there = store.stat(key)
            if there is None:
                continue
            base = there.etag
            value = _counted_to(store.get(key)) + 1
            began = time.monotonic()
            made = store.swap(key, _count(value, racer, serial), base)
            swaps.append(Swap(base=base, made=made, began=began, ended=time.monotonic()))
        return swaps

    swaps = tuple(swap for racer in ground.race(work) for swap in racer)
    last = ground.first.stat(key)
    count = _counted_to(ground.first.get(key))
    return Register(first=first, swaps=swaps, last=last.etag if last else "", count=count)


def _count(value: int, racer: int, serial: int) -> bytes:
    """The register's content; no two swaps write the same, so that etags of content differ."""
    return json.dumps([value, racer, serial]).encode()


def _counted_to(data: bytes) -> int:
    try:
        return int(json.loads(data)[0])
    except (ValueError, TypeError, LookupError) as error:
        raise Damaged(f"a register held {data[:40]!r}, which nobody wrote") from error


def _create(key: str, store: ObjectStore, racer: int) -> bool:
    return store.put_if_absent(key, numbered(racer, 64))

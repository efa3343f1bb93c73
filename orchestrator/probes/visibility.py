"""Effects. Probes: who sees what, and when: reads, overwrites, listings, removals, odd names."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.errors import Damaged, NotFound, NotSupported, StoreError
from orchestrator.ports import ObjectStore
from orchestrator.probes.ground import Ground, listed, watched
from orchestrator.probes.histories import (
    WORD,
    Look,
    number_of,
    numbered,
    problem_of_listing,
    problem_of_looks,
    problem_of_watching,
    steps_back,
)

ODD_KEYS = (
    "odd/with space/and  two",
    "odd/plus+and&and=and%and#and?",
    "odd/%2F/%41",
    "odd/quote'\"`<xml>&amp;",
    "odd/dots..inside/...three/.hidden",
    "odd/back\\slash:colon;brackets[0]{1}(2)",
    "odd/ümläut/日本語/😀",
    "odd/case/a",
    "odd/case/A",
    "odd/e\u0301",
    "odd/\u00e9",
    "odd/" + "x" * 255,
    "odd/" + "/".join(["y" * 100] * 5),
)
"""Distinct names that file systems and servers like to change, or to hold for one."""
WORDS = (40_000, 1, 25_000, 9_000)
"""Sizes of the values that overwrite each other, in words."""
OVERWRITES = 24


def read_after_write(ground: Ground) -> str:
    """One writes, overwrites and removes; another looks right afterwards. Then several watch one that overwrites."""
    looks: list[Look] = []
    for number in range(ground.effort.rounds):
        key, other = ground.key(f"read/{number}"), ground.other(number)
        looks += _looks(other, key, None)  # some caches remember that nothing was there
        for expected in (2 * number, 2 * number + 1):
            ground.first.put(key, numbered(expected, 1 + expected))
            looks += _looks(other, key, expected)
        ground.first.delete(key)
        looks += _looks(other, key, None)
    if problem := problem_of_looks(looks):
        return problem
    if back := steps_back(_watch_overwrites(ground, "read/watched")):
        return f"readers saw an older value after a newer one, {back} times"
    return ""


def _looks(store: ObjectStore, key: str, expected: int | None) -> tuple[Look, Look]:
    """What reading it and what looking it up tell; the size of a value tells its number."""
    there = store.stat(key)
    told = there.bytes // WORD - 1 if there else None
    return Look(expected=expected, found=_number_at(store, key)), Look(expected=expected, found=told)


def atomic_overwrite(ground: Ground) -> str:
    return problem_of_watching(_watch_overwrites(ground, "overwrite"))


def _watch_overwrites(ground: Ground, name: str) -> Sequence[Sequence[int | None]]:
    """The numbers that readers saw while one overwrote a value again and again with one of another size."""
    key = ground.key(name)
    ground.first.put(key, numbered(0, WORDS[0]))
    readers = [ground.other(number) for number in range(min(3, ground.effort.racers))]
    with watched(readers, lambda store: _number_at(store, key)) as seen:
        for number in range(1, OVERWRITES + 1):
            ground.first.put(key, numbered(number, WORDS[number % len(WORDS)]))
    return seen


def _number_at(store: ObjectStore, key: str) -> int | None:
    """The number of the value that is there; None if there is none, or a mix."""
    try:
        return number_of(store.get(key))
    except (NotFound, Damaged):
        return None


def listing(ground: Ground) -> str:
    """Every key that was written, and none that was removed, from any connection, at once."""
    names = [f"list/{index % 7}/{index:05}" for index in range(ground.effort.keys)]
    expected = {ground.key(name): index % 5 for index, name in enumerate(names)}
    ground.each(lambda store, item: store.put(item[0], b"." * item[1]), list(expected.items()))
    below = f"{ground.prefix}list/"
    for number in range(min(4, ground.effort.racers)):
        if problem := problem_of_listing(expected, listed(ground.other(number), below)):
            return f"after all {len(expected)} writes were acknowledged, {problem}"
    part = {key: size for key, size in expected.items() if key.startswith(f"{below}3/")}
    if problem := problem_of_listing(part, listed(ground.first, f"{below}3/")):
        return f"below a longer prefix, {problem}"
    for number in range(ground.effort.rounds):
        key = ground.key(f"list/8/{number}")
        ground.first.put(key, b"")
        if problem := problem_of_listing({key: 0}, listed(ground.other(number), f"{below}8/")):
            return f"right after a write, {problem}"
        ground.first.delete(key)
        if problem := problem_of_listing({}, listed(ground.other(number + 1), f"{below}8/")):
            return f"right after a removal, {problem}"
    return ""


def removal(ground: Ground) -> str:
    key, store = ground.key("delete"), ground.first
    try:
        store.delete(key)
    except NotFound:
        return "removing what is not there is an error"
    store.put(key, b"1")
    store.delete(key)
    store.delete(key)
    if store.stat(key) is not None or ground.other(0).stat(key) is not None:
        return "what was removed is still there"
    return ""


def odd_keys(ground: Ground) -> str:
    """All of them are there at once, so that two that become one are found out."""
    keys = [ground.key(name) for name in ODD_KEYS]
    for number, key in enumerate(keys):
        try:
            if not ground.first.put_if_absent(key, numbered(number, 1)):
                return f"{key!r} is held for another key that is there"
        except StoreError as error:
            if isinstance(error, NotSupported):
                raise
            return f"{key!r} cannot be written: {error}"
    for number, key in enumerate(keys):
        if _number_at(ground.other(number), key) != number:
            return f"{key!r} does not hold what was written to it"
    shown = {key for key, _ in listed(ground.other(0), f"{ground.prefix}odd/")}
    if missing := set(keys) - shown:
        return f"{min(missing)!r} is listed under another name, or not at all"
    for key in keys:
        ground.first.delete(key)
    if left := listed(ground.other(0), f"{ground.prefix}odd/"):
        return f"{left[0][0]!r} cannot be removed"
    return ""

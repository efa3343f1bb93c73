"""Pure. What a store answered to many at once -> what is wrong with it, in words; an empty text if nothing is."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

WORD = 8
"""Bytes of a numbered value's repeated part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Racers that tried to create one key together, and one that came late."""

    winners: tuple[int, ...]
    """Racers that were told that they had created it."""
    racers: int
    kept: int | None
    """The racer whose bytes are there afterwards; None if they are nobody's."""
    is_late_winner: bool = False
    """Whether one that came when the key was there was told that it had created it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """One try to replace what a register held."""

    base: str
    """The etag that the register was to have."""
    made: str | None
    """The etag that it got, or None if the try lost."""
    began: float
    ended: float
    """Seconds, by one clock for all racers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """The whole history of a register that counts its swaps from 0."""

    first: str
    """Its etag before the race."""
    swaps: tuple[Swap, ...]
    last: str
    """Its etag after the race."""
    count: int
    """What it says after the race."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was read of a numbered value right after it was written; None: nothing is there, or was removed."""

    expected: int | None
    found: int | None


def numbered(number: int, size: int) -> bytes:
    """A value that shows its number in every word of it, of `size` words."""
    return f"{number:0{WORD}}".encode() * max(1, size)


def number_of(data: bytes) -> int | None:
    """The number of a numbered value; None if it is a mix of several, or cut within a word."""
    word = data[:WORD]
    is_whole = len(word) == WORD and word.isdigit() and data == word * (len(data) // WORD)
    return int(word) if is_whole else None


def problem_of_creation(rounds: Sequence[Round]) -> str:
    """Exactly one racer creates a key, its bytes stay, and whoever comes late is told that the key is there."""
    total = len(rounds)
    crowded = [one for one in rounds if len(one.winners) > 1]
    if crowded:
        most = max(crowded, key=lambda one: len(one.winners))
        return (
            f"{len(most.winners)} of {most.racers} racers were told that they created the same key; "
            f"more than one was in {len(crowded)} of {total} rounds"
        )
    if empty := sum(not one.winners for one in rounds):
        return f"none of the racers was told that it created the key, in {empty} of {total} rounds"
    if lost := sum(one.kept not in one.winners for one in rounds):
        return f"the bytes that stayed were not the winner's, in {lost} of {total} rounds"
    if late := sum(one.is_late_winner for one in rounds):
        return f"who came when the key was there was told that it created it, in {late} of {total} rounds"
    return ""


def problem_of_register(register: Register) -> str:
    """The swaps that won are one chain from the first etag to the last, in an order that agrees with time."""
    won = [swap for swap in register.swaps if swap.made is not None]
    if not won:
        return f"none of {len(register.swaps)} swaps won, although nobody else wrote"
    doubled = {base: count for base, count in Counter(swap.base for swap in won).items() if count > 1}
    if doubled:
        return (
            f"{sum(doubled.values())} of {len(won)} swaps that were told they had won replaced "
            f"{len(doubled)} states, which only one swap each can have replaced: updates were lost"
        )
    if register.count != len(won):
        return f"{len(won)} increments were acknowledged, and the register counts {register.count}"
    chain = _chain(register.first, won)
    if len(chain) != len(won) or chain[-1].made != register.last:
        return f"only {len(chain)} of {len(won)} swaps that won lead from the first state to the last"
    if _is_against_time(chain):
        return "a swap won against a state that was replaced before the swap began"
    return ""


def problem_of_looks(looks: Sequence[Look]) -> str:
    """What was written, and no other, is read at once; what was removed is gone."""
    bad = [look for look in looks if look.found != look.expected]
    if not bad:
        return ""
    removed = sum(look.expected is None for look in bad)
    missing = sum(look.found is None for look in bad)
    parts = (
        f"{missing} of them found nothing" if missing else "",
        f"{removed} of them found what had been removed" if removed else "",
        f"{len(bad) - removed - missing} of them found an older value"
        if len(bad) > removed + missing
        else "",
    )
    told = ", ".join(part for part in parts if part)
    return f"{len(bad)} of {len(looks)} reads right after a write did not see it ({told})"


def problem_of_watching(readers: Iterable[Sequence[int | None]]) -> str:
    """Numbers that each reader saw of a value that one writer overwrote: never a mix (None)."""
    seen = [number for reader in readers for number in reader]
    mixed = sum(number is None for number in seen)
    return f"{mixed} of {len(seen)} reads were a mix of two values, or half of one" if mixed else ""


def steps_back(readers: Iterable[Sequence[int | None]]) -> int:
    """How often a reader saw an older value after a newer one."""
    count = 0
    for reader in readers:
        whole = [number for number in reader if number is not None]
        count += sum(after < before for before, after in itertools.pairwise(whole))
    return count


def problem_of_listing(expected: Mapping[str, int], listed: Sequence[tuple[str, int]]) -> str:
    """Every key once, in the order of the keys' bytes, with its size (`expected`: key -> bytes), and no other."""
    keys = [key for key, _ in listed]
    if missing := expected.keys() - set(keys):
        return f"{len(missing)} of {len(expected)} keys were missing, for example {min(missing)}"
    if foreign := set(keys) - expected.keys():
        return f"{len(foreign)} keys that are not there were listed, for example {min(foreign)}"
    if len(keys) != len(expected):
        return f"{len(keys) - len(expected)} keys were listed more than once"
    if keys != sorted(keys, key=str.encode):
        return "the keys were not in order"
    if wrong := [key for key, size in listed if size != expected[key]]:
        return f"{len(wrong)} of {len(expected)} sizes were wrong, for example that of {wrong[0]}"
    return ""


def _chain(first: str, won: Sequence[Swap]) -> list[Swap]:
    """The swaps, each on what the one before it made."""
    by_base = {swap.base: swap for swap in won}
    chain: list[Swap] = []
    at: str | None = first
    while at in by_base and len(chain) < len(won):
        chain.append(by_base[at])
        at = chain[-1].made
    return chain


def _is_against_time(chain: Sequence[Swap]) -> bool:
    """Whether a swap ended before one began that stands earlier in the chain."""
    latest_begin = float("-inf")
    for swap in chain:
        if swap.ended < latest_begin:
            return True
        latest_begin = max(latest_begin, swap.began)
    return False

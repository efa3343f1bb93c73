"""Effects. Which units have a result, by listing alone: the only thing that says a unit is done. Loads no Arrow."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from orchestrator.domain import TaskName
from orchestrator.ports import ObjectStore

PREFIX = "results/"
THREADS = 16
"""Requests to the store at once, wherever many objects are read or listed."""

_TASKS = tuple(task.value for task in TaskName)
_KEY = re.compile(rf"results/({'|'.join(_TASKS)})/([0-9a-f]{{2}})/(\2[0-9a-f]{{62}})\.arrow\Z")
_UNIT_KEY = re.compile(r"[0-9a-f]{64}\Z")
_FIRST_PAGES = 2000  # keys; a store with more is listed in many parts at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Every result object there is."""

    results: Mapping[str, tuple[str, int]]
    """Unit key -> its task and the object's size in bytes."""
    foreign: int
    """Objects under results/ that are no results, as far as the listing met them."""


def result_key(task: str, unit_key: str) -> str:
    """Where the result of a unit lies in the store."""
    assert task in _TASKS, f"{task} is no task with results"
    assert _UNIT_KEY.match(unit_key), f"{unit_key!r} is no unit key: 64 hex digits"
    return f"{PREFIX}{task}/{unit_key[:2]}/{unit_key}.arrow"


def unit_of(key: str) -> tuple[str, str] | None:
    """Task and unit key of a result object's key; None for anything else that lies there."""
    match = _KEY.match(key)
    return (match[1], match[3]) if match else None


def completed(store: ObjectStore) -> frozenset[str]:
    """The keys of all units that are done."""
    return frozenset(listing(store).results)


def listing(store: ObjectStore) -> Listing:
    """Every result object: a small store by one listing, a large one in 64 parts at once."""
    first = list(itertools.islice(store.list(PREFIX), _FIRST_PAGES))
    names = [(found.key, found.bytes) for found in first]
    if len(first) == _FIRST_PAGES:
        parts = [f"{PREFIX}{task}/{digit}" for task in _TASKS for digit in "0123456789abcdef"]
        with ThreadPoolExecutor(THREADS) as pool:
            pages = pool.map(lambda part: [(found.key, found.bytes) for found in store.list(part)], parts)
            names = list({**dict(names), **dict(itertools.chain.from_iterable(pages))}.items())
    matches = [(_KEY.match(key), size) for key, size in names]
    results = {match[3]: (match[1], size) for match, size in matches if match}
    return Listing(results=results, foreign=len(names) - len(results))

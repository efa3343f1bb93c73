"""Pure in what it decides, one listing in what it does: which units have a result. Loads neither Arrow nor torch."""

from __future__ import annotations

import re

from orchestrator.ports import ObjectStore

PREFIX = "results/"

_KEY = re.compile(r"results/([a-z]+)/([0-9a-f]{2})/([0-9a-f]{64})\.arrow\Z")


def result_key(task: str, unit_key: str) -> str:
    """Where a unit's result object stands."""
    return f"{PREFIX}{task}/{unit_key[:2]}/{unit_key}.arrow"


def unit_of(key: str) -> tuple[str, str] | None:
    """(task, unit key) of a result object's key; None for anything else that lies there."""
    match = _KEY.match(key)
    return (match[1], match[3]) if match and match[3].startswith(match[2]) else None


def completed(store: ObjectStore) -> frozenset[str]:
    """Keys of all units that have a result: the only thing that says a unit is done."""
    found = (unit_of(stat.key) for stat in store.list(PREFIX))
    return frozenset(pair[1] for pair in found if pair)

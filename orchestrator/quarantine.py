"""Effects. Units that are the model's own fault: one object each, with the reason, so that no night tries them again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from orchestrator.domain import Failure, Unit
from orchestrator.errors import NotFound
from orchestrator.ports import ObjectStore

PREFIX = "quarantine/"


def quarantine_key(unit_key: str) -> str:
    """Where a unit's quarantine stands."""
    return f"{PREFIX}{unit_key}.json"


def record(unit: Unit, failure: Failure, run_id: str, at: float) -> bytes:
    """What stands at a unit's quarantine: that it is at fault, and why; the first reason stays."""
    told = {
        "unit_key": unit.key,
        "task": unit.task.value,
        "model": unit.model.id,
        "recipe": unit.recipe,
        "failure_class": failure.failure_class.value,
        "error": failure.error,
        "run_id": run_id,
        "at": at,
    }
    return json.dumps(told).encode()


def read(store: ObjectStore) -> dict[str, str]:
    """Unit key -> why it is quarantined."""
    keys = list_units(store)
    with ThreadPoolExecutor(max_workers=8) as pool:
        reasons = pool.map(lambda key: reason(store, key), keys)
        return dict(zip(keys, reasons, strict=True))


def list_units(store: ObjectStore) -> list[str]:
    """The keys of all units that are quarantined."""
    keys = (stat.key for stat in store.list(PREFIX))
    return [key.removeprefix(PREFIX).removesuffix(".json") for key in keys if key.endswith(".json")]


def reason(store: ObjectStore, unit_key: str) -> str:
    """Why a unit is quarantined."""
    try:
        record = json.loads(store.get(quarantine_key(unit_key)))
        return f"{record['failure_class']}: {record['error']}"
    except (NotFound, ValueError, KeyError, TypeError):
        return "quarantined; the record of the reason is damaged"


def lift(store: ObjectStore, unit_keys: Iterable[str]) -> int:
    """Lets these units be tried again; how many there were."""
    keys = list(unit_keys)
    for key in keys:
        store.delete(quarantine_key(key))
    return len(keys)

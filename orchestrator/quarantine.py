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


def put(store: ObjectStore, unit: Unit, failure: Failure, run_id: str, at: float) -> None:
    """Records that a unit is at fault; the first reason stays."""
    record = {
        "unit_key": unit.key,
        "task": unit.task.value,
        "model": unit.model.id,
        "recipe": unit.recipe,
        "failure_class": failure.failure_class.value,
        "error": failure.error,
        "run_id": run_id,
        "at": at,
    }
    store.put_if_absent(quarantine_key(unit.key), json.dumps(record).encode())


def read(store: ObjectStore) -> dict[str, str]:
    """Unit key -> why it is quarantined."""
    keys = [stat.key for stat in store.list(PREFIX) if stat.key.endswith(".json")]
    with ThreadPoolExecutor(max_workers=8) as pool:
        reasons = pool.map(lambda key: _reason(store, key), keys)
        return {
            key.removeprefix(PREFIX).removesuffix(".json"): reason for key, reason in zip(keys, reasons, strict=True)
        }


def lift(store: ObjectStore, unit_keys: Iterable[str]) -> int:
    """Lets these units be tried again; how many there were."""
    keys = list(unit_keys)
    for key in keys:
        store.delete(quarantine_key(key))
    return len(keys)


def _reason(store: ObjectStore, key: str) -> str:
    try:
        record = json.loads(store.get(key))
        return f"{record['failure_class']}: {record['error']}"
    except (NotFound, ValueError, KeyError, TypeError):
        return "quarantined; the record of the reason is damaged"

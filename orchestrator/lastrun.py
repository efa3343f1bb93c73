"""Effects. What a run leaves in the store for the next one to be compared with: the figures of each of its cases."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from typing import Any

from orchestrator.errors import Damaged, NotFound
from orchestrator.ports import ObjectStore
from orchestrator.reportdata import Row
from orchestrator.rundiff import COLUMNS

NAME = "figures.json.gz"
LOOK_BACK = 50
"""Runs that are looked at: those of other fleets in the same store, and those that never came to their end, are passed over."""


def keep(store: ObjectStore, run_id: str, fleet: str, figures: Sequence[Row]) -> None:
    """Writes runs/<run>/figures.json.gz; the same figures are the same bytes."""
    body = json.dumps({"fleet": fleet, "cases": figures}, sort_keys=True).encode()
    store.put(f"runs/{run_id}/{NAME}", gzip.compress(body, mtime=0))


def last(store: ObjectStore, run_id: str, fleet: str) -> tuple[str, list[dict[str, Any]]]:
    """The last run of this fleet before `run_id`, and its figures; empty where there is none. Errors: Damaged."""
    earlier = sorted(name for name in store.folders("runs/") if name < run_id)
    for name in reversed(earlier[-LOOK_BACK:]):
        try:
            of_fleet, cases = _read(store, f"runs/{name}/{NAME}")
        except NotFound:
            continue
        if of_fleet == fleet:
            return name, cases
    return "", []


def _read(store: ObjectStore, key: str) -> tuple[str, list[dict[str, Any]]]:
    try:
        value = json.loads(gzip.decompress(store.get(key)))
        return value["fleet"], [{name: case[name] for name in COLUMNS} for case in value["cases"]]
    except (OSError, EOFError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise Damaged(
            f"{key} in {store.url} cannot be read: {error}; remove it to compare with an earlier run"
        ) from error

"""Effects. What a run leaves in the store for the next one to be compared with: its plan's chains, and how each of them ended."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from typing import Any

from orchestrator.errors import Damaged, NotFound
from orchestrator.ports import ObjectStore
from orchestrator.reports.data import Row

FIGURES = "figures.json.gz"
"""How each case ended: rows of `rundiff.COLUMNS`, written with the report."""
CHAINS = "chains.json.gz"
"""What was planned: rows of `plandiff.COLUMNS`, written when the run begins."""
LOOK_BACK = 50
"""Runs that are looked at: those of other fleets in the same store, and those that never came to their end, are passed over."""
LATEST = "~"
"""Sorts after every run's id."""


def keep(store: ObjectStore, run_id: str, name: str, fleet: str, rows: Sequence[Row]) -> None:
    """Writes runs/<run>/<name>; the same rows are the same bytes."""
    body = json.dumps({"fleet": fleet, "cases": rows}, sort_keys=True).encode()
    store.put(f"runs/{run_id}/{name}", gzip.compress(body, mtime=0))


def last(
    store: ObjectStore, name: str, columns: Sequence[str], fleet: str, before: str = LATEST
) -> tuple[str, list[dict[str, Any]]]:
    """The last run of this fleet before another, and its rows; empty where there is none. Errors: Damaged."""
    earlier = sorted(run for run in store.folders("runs/") if run < before)
    for run in reversed(earlier[-LOOK_BACK:]):
        try:
            of_fleet, rows = _read(store, f"runs/{run}/{name}", columns)
        except NotFound:
            continue
        if of_fleet == fleet:
            return run, rows
    return "", []


def _read(store: ObjectStore, key: str, columns: Sequence[str]) -> tuple[str, list[dict[str, Any]]]:
    try:
        value = json.loads(gzip.decompress(store.get(key)))
        return value["fleet"], [{name: case[name] for name in columns} for case in value["cases"]]
    except (OSError, EOFError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise Damaged(
            f"{key} in {store.url} cannot be read: {error}; remove it to compare with an earlier run"
        ) from error

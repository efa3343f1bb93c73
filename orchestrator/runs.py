"""Effects. Runs as the store remembers them: their status, the latest one, their reports."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from orchestrator.errors import Damaged, NotFound, UnknownRun
from orchestrator.names import problem_of_part
from orchestrator.ports import ObjectStore

_THREADS = 16
_TO_BE_CONTINUED = frozenset({"interrupted", "stopped", "not permitted", "carried over"})
"""Outcomes of runs that left work which the same run can go on with."""


def list_runs(store: ObjectStore) -> list[dict[str, Any]]:
    """The status of every run, newest first; one that cannot be read has `run_id` and `problem`."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda run_id: _status(store, run_id), store.folders("runs/"))
        aged = [(_age(store, status), status) for status in found if status is not None]
    return [status for _, status in sorted(aged, key=lambda item: item[0], reverse=True)]


def read_status(store: ObjectStore, run_id: str) -> dict[str, Any]:
    """The status of one run. Errors: UnknownRun, with the runs that are there; Damaged."""
    status = None if problem_of_part(run_id) else _status(store, run_id)
    if status is None:
        raise _unknown(store, run_id)
    if "problem" in status:
        raise Damaged(f"{status_key(run_id)} in {store.url}: {status['problem']}")
    return status


def latest(store: ObjectStore) -> str:
    """The id of the newest run. Errors: UnknownRun, if there is none yet."""
    found = list_runs(store)
    if not found:
        raise UnknownRun(f"there is no run in {store.url} yet; `prunefleet run` makes one")
    return str(found[0]["run_id"])


def closed_key(run_id: str) -> str:
    """The record of how a run ended."""
    return f"runs/{run_id}/closed.json"


def closing(store: ObjectStore, run_id: str) -> str:
    """Which closing of the run stands: it changes whenever the run is closed once more. Empty before the first."""
    there = store.stat(closed_key(run_id))
    return there.etag if there else ""


def has_ended(store: ObjectStore, run_id: str) -> bool:
    """Whether the run was closed, and not because it was stopped with work left."""
    try:
        closed = json.loads(store.get(closed_key(run_id)))
    except NotFound:
        return False
    except (ValueError, RecursionError, Damaged):
        return True
    return not (isinstance(closed, dict) and closed.get("outcome") in _TO_BE_CONTINUED)


def read_report(store: ObjectStore, run_id: str, name: str = "report.html") -> bytes:
    """A file of a run's report. Errors: UnknownRun; NotFound, if the run has not written it."""
    if problem_of_part(run_id):
        raise _unknown(store, run_id)
    try:
        return store.get(f"runs/{run_id}/{name}")
    except NotFound:
        read_status(store, run_id)
        raise NotFound(f"run {run_id} has no {name} yet; it is written when the run ends") from None


def _unknown(store: ObjectStore, run_id: str) -> UnknownRun:
    known = list(store.folders("runs/"))
    close = difflib.get_close_matches(run_id, known, n=3, cutoff=0.5) or known[-5:]
    hint = f"did you mean {', '.join(close)}?" if close else "there is no run yet"
    return UnknownRun(f"there is no run {run_id!r} in {store.url}; {hint}")


def _status(store: ObjectStore, run_id: str) -> dict[str, Any] | None:
    try:
        status = json.loads(store.get(status_key(run_id)))
    except NotFound:
        return None
    except (ValueError, RecursionError, Damaged) as error:
        return {"run_id": run_id, "problem": f"it cannot be read: {error}"}
    if not isinstance(status, dict):
        return {"run_id": run_id, "problem": f"it is a {type(status).__name__}, and no mapping"}
    return {**status, "run_id": run_id}


def status_key(run_id: str) -> str:
    """Where a run's status stands."""
    return f"runs/{run_id}/status.json"


def _age(store: ObjectStore, status: Mapping[str, Any]) -> tuple[float, str]:
    """When a run started, or where it does not say so, when its status was written."""
    run_id, started = str(status["run_id"]), status.get("started_at")
    if isinstance(started, int | float) and not isinstance(started, bool):
        return float(started), run_id
    there = store.stat(status_key(run_id))
    return (there.modified if there else 0.0, run_id)

"""Effects. Runs as the store remembers them: their status, the latest one, their reports."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
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
        raise _unknown(store, run_id, list(store.folders("runs/")))
    if "problem" in status:
        raise Damaged(f"{status_key(run_id)} in {store.url}: {status['problem']}")
    return status


def named(store: ObjectStore, asked: str) -> str:
    """The run that is meant: `latest`, an id, or a beginning that only one id has. Errors: UnknownRun, with those that come near."""
    if asked == "latest":
        return latest(store)
    known = list(store.folders("runs/"))
    found = [asked] if asked in known else [run for run in known if asked and run.startswith(asked)]
    if len(found) != 1:
        raise _unknown(store, asked, known)
    return found[0]


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
        raise _unknown(store, run_id, list(store.folders("runs/")))
    try:
        return store.get(f"runs/{run_id}/{name}")
    except NotFound:
        read_status(store, run_id)
        raise NotFound(f"run {run_id} has no {name} yet; it is written when the run ends") from None


def _unknown(store: ObjectStore, run_id: str, known: Sequence[str]) -> UnknownRun:
    if run_id in known:
        return UnknownRun(
            f"run {run_id} in {store.url} has no status yet: whatever carries it out writes one"
        )
    begun = [run for run in known if run_id and run.startswith(run_id)]
    close = begun[-5:] or difflib.get_close_matches(run_id, known, n=3, cutoff=0.5) or known[-5:]
    hint = f"did you mean {', '.join(close)}?" if close else "there is no run yet"
    return UnknownRun(f"there is no run {run_id!r} in {store.url}; {hint}")


def _status(store: ObjectStore, run_id: str) -> dict[str, Any] | None:
    try:
        status = json.loads(store.get(status_key(run_id)))
    except NotFound:
        return None
    except (ValueError, RecursionError, Damaged) as error:
        return {"run_id": run_id, "problem": f"it cannot be read: {error}"}
    if problem := _problem_of(status):
        return {"run_id": run_id, "problem": problem}
    return {**status, "run_id": run_id}


def _problem_of(status: Any) -> str:
    """Why this is no status that can be shown or reckoned with; empty if it is one. Keys that are not known are left alone."""
    if not isinstance(status, dict):
        return f"it is a {type(status).__name__}, and no mapping"
    pools = status.get("pools", {})
    slots = pools.values() if isinstance(pools, dict) else [None]
    for name, counts in [("units", status.get("units", {})), *(("pools", slot) for slot in slots)]:
        if not isinstance(counts, dict) or not all(type(count) is int for count in counts.values()):
            return f"its {name} are no counts"
    left = status.get("eta_seconds")
    return "" if left is None or isinstance(left, int | float) else "its eta_seconds are no number"


def number_of(record: Mapping[str, Any], name: str, default: float = 0.0) -> float:
    """A finite number of a record that others may have written, or the default."""
    value = record.get(name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 2.0**1000 else default  # type: ignore[arg-type]


def status_key(run_id: str) -> str:
    """Where a run's status stands."""
    return f"runs/{run_id}/status.json"


def _age(store: ObjectStore, status: Mapping[str, Any]) -> tuple[float, str]:
    """When a run started, or where it does not say so, when its status was written."""
    run_id, started = str(status["run_id"]), number_of(status, "started_at", -1.0)
    if started >= 0:
        return started, run_id
    there = store.stat(status_key(run_id))
    return (there.modified if there else 0.0, run_id)

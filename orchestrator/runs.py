"""Effects. Runs as the store remembers them: their status, the latest one, their reports."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from orchestrator.errors import Damaged, NotFound, UnknownRun
from orchestrator.ports import ObjectStore, Stat

_STATUS = re.compile(r"runs/([^/]+)/status\.json\Z")
_THREADS = 16


def list_runs(store: ObjectStore) -> list[dict[str, Any]]:
    """The status of every run, newest first; one that cannot be read has `run_id` and `problem`."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(
            pool.map(lambda item: (item[1].modified, _status(store, item[0])), _statuses(store).items())
        )
    return [status for _, status in sorted(found, key=lambda item: _age(*item), reverse=True)]


def read_status(store: ObjectStore, run_id: str) -> dict[str, Any]:
    """The status of one run. Errors: UnknownRun, with the runs that are there; Damaged."""
    known = _statuses(store)
    _check_known(store, run_id, known)
    status = _status(store, run_id)
    if "problem" in status:
        raise Damaged(f"runs/{run_id}/status.json in {store.url}: {status['problem']}")
    return status


def latest(store: ObjectStore) -> str:
    """The id of the newest run. Errors: UnknownRun, if there is none yet."""
    found = list_runs(store)
    if not found:
        raise UnknownRun(f"there is no run in {store.url} yet; `prunefleet run` makes one")
    return str(found[0]["run_id"])


def read_report(store: ObjectStore, run_id: str, name: str = "report.html") -> bytes:
    """A file of a run's report. Errors: UnknownRun; NotFound, if the run has not written it."""
    _check_known(store, run_id, _statuses(store))
    try:
        return store.get(f"runs/{run_id}/{name}")
    except NotFound:
        raise NotFound(f"run {run_id} has no {name} yet; it is written when the run ends") from None


def _statuses(store: ObjectStore) -> dict[str, Stat]:
    matches = ((_STATUS.match(found.key), found) for found in store.list("runs/"))
    return {match[1]: found for match, found in matches if match}


def _check_known(store: ObjectStore, run_id: str, known: Mapping[str, Any]) -> None:
    if run_id in known:
        return
    close = difflib.get_close_matches(run_id, known, n=3, cutoff=0.5) or sorted(known)[-5:]
    hint = f"did you mean {', '.join(close)}?" if close else "there is no run yet"
    raise UnknownRun(f"there is no run {run_id!r} in {store.url}; {hint}")


def _status(store: ObjectStore, run_id: str) -> dict[str, Any]:
    try:
        status = json.loads(store.get(f"runs/{run_id}/status.json"))
    except (ValueError, RecursionError, Damaged) as error:
        return {"run_id": run_id, "problem": f"it cannot be read: {error}"}
    if not isinstance(status, dict):
        return {"run_id": run_id, "problem": f"it is a {type(status).__name__}, and no mapping"}
    return {**status, "run_id": run_id}


def _age(modified: float, status: Mapping[str, Any]) -> tuple[float, str]:
    started = status.get("started_at")
    known = isinstance(started, int | float) and not isinstance(started, bool)
    return (float(started) if known else modified, str(status["run_id"]))  # type: ignore[arg-type]

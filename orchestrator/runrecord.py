"""Effects. What a run keeps of itself: how it began, its plan, its status while it lives, and what its units took."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from orchestrator import runs
from orchestrator.clusters.runboard import read_object
from orchestrator.clusters.sharing import Share
from orchestrator.credentials import masked
from orchestrator.domain import Plan, Pool, Shard, Unit, UnitStatus
from orchestrator.errors import STORE_ERRORS, PrunefleetError
from orchestrator.outbox import Outbox
from orchestrator.plandiff import chain_rows
from orchestrator.ports import AttemptEnded
from orchestrator.reports import lastrun
from orchestrator.schedule.scheduling import Progress, Start, UnitState
from orchestrator.survey import Survey

STATUS_EVERY_SECONDS = 5.0

_BEHIND = (
    "the results are in the store, but not all of them in its tables, so that verdicts and report may lack some: {}; "
    "the next run brings the tables up to date, and `prunefleet rebuild` makes them anew"
)


@dataclass(slots=True)
class RunRecord:
    """A watcher that keeps the run's own record: durations for the cost model, and status.json for `status`."""

    survey: Survey
    run_id: str
    share: Share | None
    closed_before: str
    """The closing that stood when it began."""
    opening: Mapping[str, float]
    """How the whole run began: `started_at`, and of its units `done_before`, `to_do` and `quarantined`."""
    measured: list[tuple[Unit, Pool, float]] = field(default_factory=list)
    findings: Counter[str] = field(default_factory=Counter)
    written_at: float = float("-inf")
    counts: Mapping[UnitState, int] = field(default_factory=Counter[UnitState])
    """Of the units, when the loop last went round."""
    outbox: Outbox | None = None
    """The loop's own, once there is one."""
    unfolded: PrunefleetError | None = None
    """Why the tables lack what was done, if they do."""

    @property
    def notices(self) -> dict[str, str]:
        """What is not as it should be with the run itself, by kind of finding."""
        told = {
            "refused_records": self.outbox.notice if self.outbox else "",
            "tables_behind": _BEHIND.format(masked(str(self.unfolded))) if self.unfolded else "",
        }
        return {kind: notice for kind, notice in told.items() if notice}

    def begun(self, start: Start, at: float) -> None:
        """An attempt starts."""

    def ended(self, event: AttemptEnded, shard: Shard, plan: Plan, at: float) -> None:
        """An attempt is over."""
        for report in event.reports:
            self.findings.update(report.findings)
            if report.status is UnitStatus.DONE:
                unit = plan.units[report.key]
                self.measured.append((unit, self.survey.pools[shard.pool], report.wall_seconds))

    def looked(self, progress: Progress, capacity: Mapping[str, int], at: float) -> None:
        """The loop has gone round once: the status is written now and then, and costs at most a twentieth of the time."""
        self.counts = progress.counts
        if at - self.written_at < STATUS_EVERY_SECONDS:
            return
        before = time.perf_counter()
        own = {
            name: {"running": progress.used_slots[name], "slots": slots} for name, slots in capacity.items()
        }
        more = {
            "eta_seconds": progress.seconds_left(sum(capacity.values())),
            "pools": {**(self.share.pools_elsewhere if self.share else {}), **own},
            "notices": list(self.notices.values()),
        }
        with suppress(*STORE_ERRORS):  # the next one tells the same, and no work hangs on it
            if self.share is None or runs.closing(self.survey.store, self.run_id) == self.closed_before:
                write_status(self, "running", at, more)
        self.written_at = at + 19 * (time.perf_counter() - before)

    @property
    def units(self) -> dict[str, int]:
        """The units by state, as the whole run has them: what other clusters run, or had done before this one planned, counts."""
        plan = self.survey.plan
        found = Counter(self.counts)
        found[UnitState.DONE] += len(plan.done) - int(self.opening["done_before"])
        found[UnitState.QUARANTINED] += len(plan.quarantined) - int(self.opening["quarantined"])
        elsewhere = self.share.running_elsewhere if self.share else 0
        for state in (UnitState.READY, UnitState.WAITING):
            running = min(elsewhere, found[state])
            elsewhere -= running
            found[state] -= running
            found[UnitState.RUNNING] += running
        return {state.value: found[state] for state in UnitState}


def opening_of(survey: Survey, run_id: str, at: float, share: Share | None) -> dict[str, float]:
    """How the run begins; for a cluster that comes to a run which lives, as the first one wrote."""
    plan = survey.plan
    now = {
        "started_at": at,
        "done_before": len(plan.done),
        "to_do": len(plan.todo),
        "quarantined": len(plan.quarantined),
    }
    there = read_object(survey.store, runs.status_key(run_id)) if share else {}
    is_like_ours = there.get("state") == "running" and all(
        isinstance(there.get(name), int | float) for name in now
    )
    return {name: there[name] for name in now} if is_like_ours else now


def open_run(record: RunRecord, at: float) -> None:
    """Writes the fleet file, the plan and the first status of a run."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    from orchestrator.planview import state_of

    survey, run_id, plan = record.survey, record.run_id, record.survey.plan
    rows = [
        {
            "unit_key": key,
            "task": plan.units[key].task.value,
            "registry": chain.model.registry,
            "model": chain.model.name,
            "version": chain.model.version,
            "model_digest": chain.model.digest,
            "recipe": chain.recipe,
            "state": state_of(plan, survey.placement, key)[0],
        }
        for chain in plan.chains
        for key in chain.units
    ]
    columns = ("unit_key", "task", "registry", "model", "version", "model_digest", "recipe", "state")
    table = pa.Table.from_pylist(rows, schema=pa.schema([(column, pa.string()) for column in columns]))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    survey.store.put(f"runs/{run_id}/fleet.yaml", masked(survey.fleet_text).encode())
    survey.store.put(f"runs/{run_id}/plan.parquet", buffer.getvalue())
    lastrun.keep(survey.store, run_id, lastrun.CHAINS, plan.fleet, chain_rows(plan))
    record.counts = Counter({UnitState.WAITING: len(plan.todo)})
    write_status(record, "running", at, {})


def write_status(record: RunRecord, state: str, at: float, more: Mapping[str, Any]) -> None:
    """Overwrites the run's status: what `status` shows while the run lives and after it. All its controllers tell of the whole run."""
    survey, plan = record.survey, record.survey.plan
    status = {
        "run_id": record.run_id,
        "fleet": plan.fleet,
        "state": state,
        "updated_at": at,
        "wanted": len(plan.units),
        "impossible": len(plan.impossible) + len(survey.placement.misfits),
        "units": record.units,
        **record.opening,
        **more,
    }
    survey.store.put(runs.status_key(record.run_id), json.dumps(status, indent=1).encode())

"""Effects. Carries a survey out: records the run, runs the loop, publishes, folds, reports, and says how it ended."""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator import runs, underway
from orchestrator.clusters.runboard import read_object
from orchestrator.clusters.sharing import Share
from orchestrator.controller import Controller, Signals, SystemClock, Watcher
from orchestrator.credentials import masked
from orchestrator.datafiles import share_data
from orchestrator.domain import FailureClass, Judgement, Plan, Pool, Shard, TaskName, Unit, UnitStatus
from orchestrator.errors import NotPermitted, PrunefleetError, StoreError, Unreachable
from orchestrator.lastword import last_word
from orchestrator.outbox import Outbox
from orchestrator.plandiff import chain_rows
from orchestrator.ports import AttemptEnded, Connect
from orchestrator.promotion.publication import Publications, Published, Unpublished, publish_passed
from orchestrator.promotion.signing import check_key
from orchestrator.reports import lastrun
from orchestrator.reports.data import ReportData
from orchestrator.reports.gains import Gains
from orchestrator.schedule.scheduling import Progress, Start, UnitState
from orchestrator.schedule.window import StopAt
from orchestrator.survey import Survey, read_costs, write_costs
from orchestrator.worker import ShardOrder, run_shard

if TYPE_CHECKING:
    from orchestrator.reports.reporting import Rows

STATUS_EVERY_SECONDS = 5.0
STORE_ERRORS = (StoreError, Unreachable, NotPermitted)

_BEHIND = (
    "the results are in the store, but not all of them in its tables, so that verdicts and report may lack some: {}; "
    "the next run brings the tables up to date, and `prunefleet rebuild` makes them anew"
)

EXIT_OK, EXIT_BLOCKED, EXIT_FAILED, EXIT_INCONCLUSIVE = 0, 3, 4, 5
EXIT_UNREACHABLE, EXIT_INTERRUPTED, EXIT_NOT_PERMITTED = 69, 75, 77


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run is to go, beside what its fleet says."""

    cache_root: str
    stop: StopAt | None = None
    max_failures: int | None = None
    actor: str = "prunefleet"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """How a run ended."""

    run_id: str
    exit_code: int
    outcome: str
    counts: Mapping[str, int]
    verdicts: Mapping[str, int]
    """Of the judge units finished in this run."""
    findings: Mapping[str, int]
    """Of the units finished in this run, by kind."""
    gains: Gains
    """Of all the fleet's pruned models."""
    published: tuple[Published, ...]
    carried_over: int
    told: ReportData
    """All that its report shows."""
    stop_reason: str = ""
    notices: tuple[str, ...] = ()
    """What a person should know of the run itself, beside its units."""


@dataclass(slots=True)
class _Record:
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


def new_run_id(at: float) -> str:
    """Sorts by time; two runs of one second differ."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(at))}-{secrets.token_hex(3)}"


def execute(
    survey: Survey,
    connect: Connect,
    options: RunOptions,
    signals: Signals,
    watchers: Sequence[Watcher] = (),
    run_id: str | None = None,
    share: Share | None = None,
) -> RunSummary:
    """Carries the plan out. A plan without work starts no cluster; what only needs publishing or folding still is."""
    if any(recipe.publish for recipe in survey.fleet.recipes.values()):
        check_key()
    clock = SystemClock()
    started_at = clock.now()
    run_id = run_id or new_run_id(started_at)
    before = runs.closing(survey.store, run_id)
    opening = _opening(survey, run_id, started_at, share)
    record = _Record(survey=survey, run_id=run_id, share=share, closed_before=before, opening=opening)
    if share and not survey.plan.todo and runs.has_ended(survey.store, run_id):
        return _left_to_others(survey, record, None, signals)
    if opening["started_at"] == started_at:
        _open_run(record, started_at)
    with _told_if_it_dies(record, share):
        progress = _work(record, connect, options, signals, watchers, share) if survey.plan.todo else None
        if progress is not None:
            with suppress(*STORE_ERRORS):  # experience, which can be gathered anew
                write_costs(survey.store, read_costs(survey.store).learnt(record.measured))
        with suppress(*STORE_ERRORS):  # left behind, it costs a later run a little care
            underway.settle(survey.store, _done(survey, progress), clock.now())
        survey = record.survey
        board = share.board if share else None
        with last_word(board, clock, signals, before) as is_ours:
            if not is_ours:
                return _left_to_others(survey, record, progress, signals)
            publications = publish_passed(survey, _done(survey, progress), run_id, clock.now(), options.actor)
            return _close_run(survey, record, progress, publications, signals, clock.now())


def _work(
    record: _Record,
    connect: Connect,
    options: RunOptions,
    signals: Signals,
    watchers: Sequence[Watcher],
    share: Share | None,
) -> Progress:
    """Shares the data, connects, and goes round the loop until nothing is left to start."""
    survey, run_id = record.survey, record.run_id
    share_data(survey.store, [unit.step.data for unit in _units_to_do(survey.plan) if unit.step.data])
    reach = share.pools[share.cluster] if share else survey.pools
    backend = connect({name: survey.pools[name] for name in reach}, run_shard)
    try:
        if share is None:  # clusters that share a run must all place it alike
            record.survey = survey = survey.placed_on(backend.largest_nodes())
        controller = Controller(
            run_id=run_id,
            store=survey.store,
            backend=backend,
            clock=SystemClock(),
            payload=lambda start: _order(survey, run_id, start, options),
            watchers=(record, *watchers),
            signals=signals,
            stop=options.stop,
            max_failures=options.max_failures,
            share=share,
        )
        record.outbox = controller.outbox
        return controller.run(
            survey.plan, survey.pools, survey.costs, survey.placement.misfits, survey.suspects
        )
    finally:
        backend.close()


@contextmanager
def _told_if_it_dies(record: _Record, share: Share | None) -> Iterator[None]:
    """Whoever dies of an error says so in the run's status, unless other clusters go on with it."""
    try:
        yield
    except Exception as error:
        if share is None:
            exit_code = error.exit_code if isinstance(error, PrunefleetError) else 1
            more = {
                "outcome": "died",
                "exit_code": exit_code,
                "stop_reason": masked(f"{type(error).__name__}: {error}"),
                "finished_at": time.time(),
                "notices": list(record.notices.values()),
            }
            with suppress(*STORE_ERRORS):
                write_status(record, "ended", time.time(), more)
        raise


def _done(survey: Survey, progress: Progress | None) -> frozenset[str]:
    """Units with a result, after the loop."""
    states = progress.states if progress else {}
    return survey.plan.done | {key for key, state in states.items() if state is UnitState.DONE}


def _judged(plan: Plan, progress: Progress | None) -> list[str]:
    """Judge units that this run has finished, on whatever cluster."""
    states = progress.states if progress else {}
    return [
        key
        for key in plan.todo
        if plan.units[key].task is TaskName.JUDGE and states.get(key) is UnitState.DONE
    ]


def _units_to_do(plan: Plan) -> list[Unit]:
    return [plan.units[key] for key in plan.todo]


def _order(survey: Survey, run_id: str, start: Start, options: RunOptions) -> ShardOrder:
    units = tuple(survey.plan.units[key] for key in start.shard.units)
    pool = survey.pools[start.shard.pool]
    return ShardOrder(
        run_id=run_id,
        attempt_id=start.attempt_id,
        limit_seconds=start.limit_seconds,
        shard=start.shard,
        pool=pool,
        units=units,
        need_tasks={need: survey.plan.units[need].task.value for unit in units for need in unit.needs},
        predicted_seconds={unit.key: survey.costs.estimate(unit, pool).seconds for unit in units},
        store=survey.fleet.store,
        registries={unit.model.registry: survey.fleet.registries[unit.model.registry] for unit in units},
        cache_root=options.cache_root,
        cache_bytes=survey.fleet.cache_bytes,
    )


def _opening(survey: Survey, run_id: str, at: float, share: Share | None) -> dict[str, float]:
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


def _open_run(record: _Record, at: float) -> None:
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


def write_status(record: _Record, state: str, at: float, more: Mapping[str, Any]) -> None:
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


def _close_run(
    survey: Survey,
    record: _Record,
    progress: Progress | None,
    publications: Publications,
    signals: Signals,
    at: float,
) -> RunSummary:
    from orchestrator.reports.reporting import gains_of, verdicts_of, write_report

    if record.share:
        record.share.others = ()  # all have ended, or this one would not close
    rows, record.unfolded = _folded(survey)
    verdicts = verdicts_of(rows, _judged(survey.plan, progress))
    counts = progress.counts if progress else Counter[UnitState]()
    published, unpublished = publications
    outcome, exit_code, reason = _ending(survey, progress, verdicts, signals, unpublished, record.unfolded)
    closed = {
        "run_id": record.run_id,
        "fleet": survey.plan.fleet,
        "started_at": record.opening["started_at"],
        "finished_at": at,
        "outcome": outcome,
        "exit_code": exit_code,
        "wanted": len(survey.plan.units),
        "done_before": record.opening["done_before"],
        "done": record.units[UnitState.DONE],
        "failed": record.units[UnitState.FAILED] + record.units[UnitState.QUARANTINED],
        "impossible": len(survey.plan.impossible) + len(survey.placement.misfits),
    }
    survey.store.put(runs.closed_key(record.run_id), json.dumps(closed).encode())
    more = {
        "outcome": outcome,
        "exit_code": exit_code,
        "stop_reason": reason,
        "finished_at": at,
        "verdicts": dict(verdicts),
        "findings": dict(record.findings if record.share is None else _findings_of(rows, record.run_id)),
        "notices": list(record.notices.values()),
        "published": len(published),
        "unpublished": {one.subject: masked(str(one.error)) for one in unpublished},
    }
    write_status(record, "ended", at, more)
    told = write_report(survey, record.run_id, closed, progress, rows, record.notices)
    return _summary(
        record,
        counts,
        (outcome, exit_code, reason),
        verdicts,
        gains_of(rows, survey.plan),
        published,
        told,
    )


def _folded(survey: Survey) -> tuple[Rows, PrunefleetError | None]:
    """The tables' rows of the plan's units, and why the tables lack what was done, if they do; no result hangs on them."""
    from orchestrator.reports.reporting import SHOWN, rows_of_plan
    from orchestrator.tables.folding import fold

    unfolded: PrunefleetError | None = None
    try:
        fold(survey.store)
    except STORE_ERRORS as error:
        unfolded = error
    try:
        return rows_of_plan(survey.store, survey.plan), unfolded
    except STORE_ERRORS as error:
        return dict.fromkeys(SHOWN, ()), unfolded or error


def _findings_of(rows: Rows, run_id: str) -> Counter[str]:
    """Of a run's units, by kind, wherever they ran."""
    return Counter(row["kind"] for row in rows["findings"] if row["run_id"] == run_id)


def _left_to_others(
    survey: Survey, record: _Record, progress: Progress | None, signals: Signals
) -> RunSummary:
    """How a run ended that another controller closes, or why this one left it."""
    closed = read_object(survey.store, runs.closed_key(record.run_id))
    ending = str(closed.get("outcome", "interrupted")), int(closed.get("exit_code", EXIT_INTERRUPTED)), ""
    if signals.drain:
        ending = "interrupted", EXIT_INTERRUPTED, signals.drain
    counts = progress.counts if progress else Counter[UnitState]()
    told = ReportData(run={"run_id": record.run_id}, chains=())
    return _summary(record, counts, ending, {}, Gains(models=0, without=0, measured=0), (), told)


def _summary(
    record: _Record,
    counts: Mapping[UnitState, int],
    ending: tuple[str, int, str],
    verdicts: Mapping[str, int],
    gains: Gains,
    published: Sequence[Published],
    told: ReportData,
) -> RunSummary:
    outcome, exit_code, reason = ending
    return RunSummary(
        run_id=record.run_id,
        exit_code=exit_code,
        outcome=outcome,
        counts={state.value: counts.get(state, 0) for state in UnitState},
        verdicts=dict(verdicts),
        findings=dict(record.findings),
        gains=gains,
        published=tuple(published),
        carried_over=counts.get(UnitState.WAITING, 0) + counts.get(UnitState.READY, 0),
        told=told,
        stop_reason=reason,
        notices=tuple(record.notices.values()),
    )


def _code_of(unpublished: Sequence[Unpublished]) -> int:
    """That of permission, or of a service that is away, where nothing else is wrong; else something has failed."""
    codes = {type(one.error): one.error.exit_code for one in unpublished}
    return codes.popitem()[1] if codes.keys() in ({NotPermitted}, {Unreachable}) else EXIT_FAILED


def _told(unpublished: Sequence[Unpublished]) -> str:
    first = unpublished[0]
    more = f" and {len(unpublished) - 1} more" if len(unpublished) > 1 else ""
    return masked(f"not published: {first.subject}: {first.error}{more}")


def _ending(
    survey: Survey,
    progress: Progress | None,
    verdicts: Mapping[str, int],
    signals: Signals,
    unpublished: Sequence[Unpublished],
    unfolded: PrunefleetError | None,
) -> tuple[str, int, str]:
    """Outcome, exit code, and the reason of a stop. What could not be done outranks what was refused."""
    stop = progress.stop if progress else None
    if stop and stop.failure_class is FailureClass.PERMISSION:
        return "not permitted", EXIT_NOT_PERMITTED, stop.reason
    if stop and stop.failure_class is not None:
        return "stopped", EXIT_UNREACHABLE, stop.reason
    if signals.drain:
        return "interrupted", EXIT_INTERRUPTED, signals.drain
    failed = progress is not None and (
        progress.counts[UnitState.FAILED] + progress.counts[UnitState.QUARANTINED]
    )
    reason = stop.reason if stop else ""
    if unpublished:
        return "incomplete", _code_of(unpublished), "; ".join(filter(None, (reason, _told(unpublished))))
    if failed or survey.plan.impossible or survey.plan.quarantined or survey.placement.misfits:
        return "incomplete", EXIT_FAILED, reason
    if unfolded:
        return "incomplete", unfolded.exit_code, reason
    if verdicts.get(Judgement.BLOCK.value):
        return "blocked", EXIT_BLOCKED, reason
    if verdicts.get(Judgement.INCONCLUSIVE.value):
        return "inconclusive", EXIT_INCONCLUSIVE, reason
    if progress is None:
        return "nothing to do", EXIT_OK, reason
    return ("carried over" if stop else "done"), EXIT_OK, reason

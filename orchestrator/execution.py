"""Effects. Carries a survey out: records the run, runs the loop, publishes, folds, reports, and says how it ended."""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator import runs, underway
from orchestrator.clusters.runboard import read_object
from orchestrator.clusters.sharing import Share
from orchestrator.controller import Controller, Signals, SystemClock, Watcher
from orchestrator.credentials import masked
from orchestrator.datafiles import share_data
from orchestrator.domain import Plan, TaskName, Unit
from orchestrator.endings import EXIT_INTERRUPTED, Ending, RunSummary, ending_of, summary_of
from orchestrator.errors import STORE_ERRORS, PrunefleetError
from orchestrator.lastword import last_word
from orchestrator.ports import Connect
from orchestrator.promotion.publication import Publications, publish_passed
from orchestrator.promotion.signing import check_key
from orchestrator.reports.data import ReportData
from orchestrator.reports.gains import Gains
from orchestrator.runrecord import RunRecord, open_run, opening_of, write_status
from orchestrator.schedule.scheduling import Progress, Start, UnitState
from orchestrator.schedule.window import StopAt
from orchestrator.survey import Survey, read_costs, write_costs
from orchestrator.worker import ShardOrder, run_shard

if TYPE_CHECKING:
    from orchestrator.reports.reporting import Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run is to go, beside what its fleet says."""

    cache_root: str
    stop: StopAt | None = None
    max_failures: int | None = None
    actor: str = "prunefleet"


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
    opening = opening_of(survey, run_id, started_at, share)
    record = RunRecord(survey=survey, run_id=run_id, share=share, closed_before=before, opening=opening)
    if share and not survey.plan.todo and runs.has_ended(survey.store, run_id):
        return _left_to_others(survey, record, None, signals)
    if opening["started_at"] == started_at:
        open_run(record, started_at)
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
    record: RunRecord,
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
def _told_if_it_dies(record: RunRecord, share: Share | None) -> Iterator[None]:
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


def _close_run(
    survey: Survey,
    record: RunRecord,
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
    ending = ending_of(survey, progress, verdicts, signals, unpublished, record.unfolded)
    closed = {
        "run_id": record.run_id,
        "fleet": survey.plan.fleet,
        "started_at": record.opening["started_at"],
        "finished_at": at,
        "outcome": ending.outcome,
        "exit_code": ending.exit_code,
        "wanted": len(survey.plan.units),
        "done_before": record.opening["done_before"],
        "done": record.units[UnitState.DONE],
        "failed": record.units[UnitState.FAILED] + record.units[UnitState.QUARANTINED],
        "impossible": len(survey.plan.impossible) + len(survey.placement.misfits),
    }
    survey.store.put(runs.closed_key(record.run_id), json.dumps(closed).encode())
    more = {
        "outcome": ending.outcome,
        "exit_code": ending.exit_code,
        "stop_reason": ending.reason,
        "finished_at": at,
        "verdicts": dict(verdicts),
        "findings": dict(record.findings if record.share is None else _findings_of(rows, record.run_id)),
        "notices": list(record.notices.values()),
        "published": len(published),
        "unpublished": {one.subject: masked(str(one.error)) for one in unpublished},
    }
    write_status(record, "ended", at, more)
    told = write_report(survey, record.run_id, closed, progress, rows, record.notices)
    return summary_of(
        record,
        counts,
        ending,
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
    survey: Survey, record: RunRecord, progress: Progress | None, signals: Signals
) -> RunSummary:
    """How a run ended that another controller closes, or why this one left it."""
    closed = read_object(survey.store, runs.closed_key(record.run_id))
    ending = Ending(
        str(closed.get("outcome", "interrupted")), int(closed.get("exit_code", EXIT_INTERRUPTED)), ""
    )
    if signals.drain:
        ending = Ending("interrupted", EXIT_INTERRUPTED, signals.drain)
    counts = progress.counts if progress else Counter[UnitState]()
    told = ReportData(run={"run_id": record.run_id}, chains=())
    return summary_of(record, counts, ending, {}, Gains(models=0, without=0, measured=0), (), told)

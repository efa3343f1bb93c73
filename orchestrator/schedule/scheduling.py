"""Pure. The scheduler's brain: `observe` takes in what happened, `decide` says what to start, cancel or stop.

Neither has a clock, a disk, a network or Ray: time comes in as `at`. `Progress` is changed by `observe` and `decide`
alone, so the same events always lead to the same decisions; the real controller and the simulator share this file.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from orchestrator.domain import Failure, FailureClass, Plan, Pool, Shard, UnitReport, UnitStatus
from orchestrator.planning import dependents
from orchestrator.ports import AttemptEnded
from orchestrator.schedule import retry
from orchestrator.schedule.costs import Costs
from orchestrator.schedule.forecast import Cell, Forecast, Outlook
from orchestrator.schedule.ready import Ready
from orchestrator.schedule.retry import Action

SHARDS_PER_SLOT = 4.0  # enough that the last ones even out, few enough that a shard is worth its start
MIN_SHARD_SECONDS, MAX_SHARD_SECONDS = 2.0, 120.0
MIN_LIMIT_SECONDS = 3600.0  # estimates of a cold start may be far off; a limit is for what hangs
LIMIT_FACTOR = 20.0
DEADLINE_PER_LIMIT = 2.0  # the limit counts from the start on a node, which the scheduler does not see
MIN_DEADLINE_SECONDS = MIN_LIMIT_SECONDS * DEADLINE_PER_LIMIT
KILL_AFTER_SECONDS = 30.0  # from asking an attempt to stop until it is killed
LAST = -1.0  # a rank below all others
LAST_BAND = 100_000
BAND_RANK = 1e9  # seconds: more than any chain takes, and little enough that ranks keep their milliseconds
STARVED_SECONDS = 120.0  # without any slot anywhere, while work is waiting


class UnitState(StrEnum):
    """Where a unit of this run stands."""

    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    QUARANTINED = "quarantined"


FAILURES = (UnitState.FAILED, UnitState.QUARANTINED)
ENDED = (UnitState.DONE, *FAILURES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start this attempt."""

    attempt_id: str
    shard: Shard
    limit_seconds: float
    """After which its worker ends itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Ask this attempt to stop, or kill it."""

    attempt_id: str
    force: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Start nothing more; what runs may end."""

    reason: str
    failure_class: FailureClass | None = None


Order = Start | Cancel | Stop


@dataclass(slots=True)
class Running:
    """An attempt under way."""

    shard: Shard
    started_at: float
    deadline: float
    asked_at: float | None = None
    """When it was asked to stop."""


@dataclass(slots=True)
class Progress:
    """All that the scheduler knows about a run."""

    plan: Plan
    pools: Mapping[str, Pool]
    forecast: Forecast
    states: dict[str, UnitState] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    readers: dict[str, list[str]] = field(default_factory=dict)
    ranks: dict[str, float] = field(default_factory=dict)
    ready: Ready = field(default_factory=Ready)
    delayed: list[tuple[float, str]] = field(default_factory=list)
    running: dict[str, Running] = field(default_factory=dict)
    used_slots: Counter[str] = field(default_factory=Counter)
    """By pool, of the attempts under way."""
    used_memory: Counter[str] = field(default_factory=Counter)
    deadlines: list[tuple[float, str]] = field(default_factory=list)
    """A heap of what `decide` must look at again, and when; entries of ended attempts are skipped."""
    failures: dict[str, Counter[FailureClass]] = field(default_factory=dict)
    reasons: dict[str, Failure] = field(default_factory=dict)
    alone: set[str] = field(default_factory=set)
    memory_factors: dict[str, float] = field(default_factory=dict)
    deadline_factors: dict[str, float] = field(default_factory=dict)
    quarantine: dict[str, Failure] = field(default_factory=dict)
    """Units found to be the model's own fault in this run."""
    counts: Counter[UnitState] = field(default_factory=Counter)
    work_left: float = 0.0
    """Seconds of the units not done, each on its fastest pool."""
    shards: int = 0
    preferences: dict[tuple[str, tuple[str, ...], int], list[tuple[float, str, Cell]]] = field(
        default_factory=dict
    )
    """What `_preferences` has worked out."""
    stop: Stop | None = None
    slotless_since: float | None = None
    held: set[str] = field(default_factory=set)
    """Units that are another cluster's, or nobody's yet: they wait until they are freed, or are heard to have ended."""
    slots_elsewhere: int = 0
    """Of the other clusters that work on the same plan."""
    own_pools: frozenset[str] | None = None
    """Those in this controller's reach; None means all."""
    prefix: str = ""
    """Of its shards' names, so that no two controllers of a run use the same."""

    @property
    def is_over(self) -> bool:
        """Nothing runs, and nothing can start any more."""
        if self.running:
            return False
        return self.stop is not None or not (
            self.counts[UnitState.READY] or self.held or any(self._waits(key) for _, key in self.delayed)
        )

    def _waits(self, key: str) -> bool:
        """Whether it is still to be done: another cluster may have done what was to be tried again here."""
        return self.states[key] is UnitState.WAITING

    def to_be_tried_again(self) -> list[str]:
        """Units that failed, and wait for their next try."""
        return [key for _, key in self.delayed if self._waits(key)]

    def outlook(self, key: str) -> Outlook:
        """What the unit's next attempt is expected to take."""
        return self.forecast.of(self.plan.units[key], self.memory_factors.get(key, 1.0))

    def work(self, key: str) -> float:
        """Seconds of the unit on its fastest pool."""
        return self.forecast.of(self.plan.units[key]).fastest

    def band(self, key: str) -> int:
        """What starts before what: the plan's order, and whatever is suspected after all others."""
        if not self.plan.bands:
            return 0
        return LAST_BAND if self.ranks[key] == LAST else self.plan.bands.get(key, LAST_BAND)

    def seconds_left(self, slots: int) -> float:
        """Expected time to the end, were the slots always busy."""
        return self.work_left / max(1, slots + self.slots_elsewhere)


def begin(
    plan: Plan,
    pools: Mapping[str, Pool],
    costs: Costs,
    misfits: Mapping[str, str],
    suspects: Collection[str] = (),
    held: Collection[str] = (),
) -> Progress:
    """The state before anything has started; `misfits` (unit -> why) fail at once, with all that need them.

    `suspects` were under way when another run ended without a word: each is tried alone, and after the others. `held` are
    not this controller's to start until they are freed.
    """
    forecast = Forecast(pools, costs)
    progress = Progress(
        plan=plan, pools=pools, forecast=forecast, readers=dependents(plan.units), held=set(held)
    )
    todo = set(plan.todo)
    for key in reversed(plan.todo):
        longest = max(
            (progress.ranks.get(reader, 0.0) for reader in progress.readers.get(key, ())), default=0.0
        )
        progress.ranks[key] = longest + progress.work(key)
    for key in suspects:
        if key in todo:
            progress.alone.add(key)
            progress.ranks[key] = LAST
    for key in plan.todo:
        progress.missing[key] = sum(need in todo for need in plan.units[key].needs)
        _enter(progress, key, UnitState.WAITING)
        progress.work_left += progress.work(key)
    for key, reason in misfits.items():
        _fail(progress, key, Failure(failure_class=FailureClass.MEMORY, error=reason), UnitState.FAILED)
    for key in sorted(plan.todo, key=progress.alone.__contains__):
        if progress.missing[key] == 0 and progress.states[key] is UnitState.WAITING:
            _make_ready(progress, key)
    return progress


def observe(progress: Progress, event: AttemptEnded, at: float) -> Progress:
    """Takes in the end of an attempt; an attempt that is not known (late, twice) changes nothing but what it proves done."""
    attempt = progress.running.pop(event.attempt_id, None)
    for report in event.reports:
        if report.status is not UnitStatus.FAILED:
            _done(progress, report)
    if attempt is None:
        return progress
    progress.used_slots[attempt.shard.pool] -= 1
    progress.used_memory[attempt.shard.pool] -= attempt.shard.memory_bytes
    was_alone = len(attempt.shard.units) == 1
    reported = {report.key: report for report in event.reports}
    for key in attempt.shard.units:
        if progress.states[key] is not UnitState.RUNNING:
            continue
        failure = reported[key].failure if key in reported else event.failure
        if failure is None:
            failure = Failure(
                failure_class=FailureClass.INTERNAL, error="the attempt ended without a word about this unit"
            )
        if attempt.asked_at is not None and failure.failure_class in (
            FailureClass.POISON,
            FailureClass.INTERNAL,
        ):
            seconds = at - attempt.started_at
            failure = Failure(
                failure_class=FailureClass.TIMEOUT, error=f"stopped at its deadline, after {seconds:.0f} s"
            )
        _failed(progress, key, failure, at, was_alone=was_alone)
    return progress


def decide(progress: Progress, capacity: Mapping[str, int], at: float) -> list[Order]:
    """What to do now, given the slots that each pool has; its orders count as carried out."""
    orders: list[Order] = list(_overdue(progress, at))
    while progress.delayed and progress.delayed[0][0] <= at:
        _, key = heapq.heappop(progress.delayed)
        if progress.states[key] is UnitState.WAITING:
            _make_ready(progress, key)
    if progress.stop is None:
        orders.extend(_starts(progress, capacity, at))
        orders.extend(_starved(progress, capacity, at))
    return orders


def drain(progress: Progress, reason: str) -> Progress:
    """Starts nothing more; what runs may end."""
    if progress.stop is None:
        progress.stop = Stop(reason=reason)
    return progress


def hold(progress: Progress, keys: Collection[str]) -> Progress:
    """Leaves units to another cluster, but for those that run or have ended."""
    for key in keys:
        if progress.states[key] in (UnitState.WAITING, UnitState.READY):
            progress.held.add(key)
            _enter(progress, key, UnitState.WAITING)
    return progress


def free(progress: Progress, keys: Collection[str]) -> Progress:
    """Units that were held may start here."""
    for key in keys:
        if key in progress.held:
            progress.held.discard(key)
            if progress.missing[key] == 0:
                _make_ready(progress, key)
    return progress


def hear(progress: Progress, done: Collection[str], failed: Mapping[str, Failure]) -> Progress:
    """Takes in how units ended on another cluster; what runs here as well is left to its own end."""
    for key in done:
        if key in progress.states:
            _done(progress, UnitReport(key=key, status=UnitStatus.FOUND))
    for key, failure in failed.items():
        if progress.states.get(key) in (UnitState.WAITING, UnitState.READY):
            _fail(progress, key, failure, UnitState.FAILED)
    return progress


def next_wake(progress: Progress, at: float) -> float:
    """Seconds until `decide` has something to do even if no attempt ends."""
    heads = [heap[0][0] for heap in (progress.deadlines, progress.delayed) if heap]
    return max(0.0, min(heads, default=at + 60.0) - at)


def _starts(progress: Progress, capacity: Mapping[str, int], at: float) -> list[Order]:
    free = {name: capacity.get(name, 0) - progress.used_slots[name] for name in progress.pools}
    seconds = _shard_seconds(progress.seconds_left(sum(capacity.get(name, 0) for name in progress.pools)))
    orders: list[Order] = []
    open_pools = [name for name in progress.pools if free[name] > 0]
    while open_pools and progress.counts[UnitState.READY]:
        for name in list(open_pools):
            start = _start_on(progress, progress.pools[name], capacity, seconds, at)
            if start is None:
                open_pools.remove(name)
                continue
            orders.append(start)
            free[name] -= 1
            if free[name] <= 0:
                open_pools.remove(name)
    return orders


def _shard_seconds(seconds_left: float) -> float:
    """How much a shard takes at most; in the last seconds half of what is left for each slot, so that they end together."""
    least = min(MIN_SHARD_SECONDS, seconds_left / 2)
    return min(MAX_SHARD_SECONDS, max(least, seconds_left / SHARDS_PER_SLOT))


def _start_on(
    progress: Progress, pool: Pool, capacity: Mapping[str, int], seconds: float, at: float
) -> Start | None:
    costs: dict[str, float] = {}
    while not costs:
        cell = _best_cell(progress, pool, capacity)
        if cell is None:
            return None
        taken = progress.ready.take(
            cell,
            seconds,
            cost=lambda key: progress.outlook(key).seconds[pool.name],
            joins=lambda key: key not in progress.alone,
        )
        for key, cost in taken.items():
            if progress.states[key] is UnitState.READY:  # a late report may have ended it
                costs[key] = cost
    progress.shards += 1
    shard = Shard(
        id=f"{progress.prefix}s{progress.shards:06d}",
        units=tuple(costs),
        pool=pool.name,
        predicted_seconds=sum(costs.values()),
        memory_bytes=max(progress.outlook(key).memory_bytes for key in costs),
    )
    attempt_id = f"{shard.id}-1"
    patience = max(progress.deadline_factors.get(key, 1.0) for key in costs)
    limit = patience * max(MIN_LIMIT_SECONDS, LIMIT_FACTOR * shard.predicted_seconds)
    deadline = at + limit * DEADLINE_PER_LIMIT
    progress.running[attempt_id] = Running(shard=shard, started_at=at, deadline=deadline)
    progress.used_slots[pool.name] += 1
    progress.used_memory[pool.name] += shard.memory_bytes
    heapq.heappush(progress.deadlines, (deadline, attempt_id))
    for key in costs:
        _enter(progress, key, UnitState.RUNNING)
    return Start(attempt_id=attempt_id, shard=shard, limit_seconds=limit)


def _best_cell(progress: Progress, pool: Pool, capacity: Mapping[str, int]) -> Cell | None:
    """HeteroPrio: a free slot takes what this pool is comparatively best at; among equals, what most waits for. An earlier band of the
    plan comes before all that.

    A slower pool takes nothing that the faster ones would finish sooner (Beaumont et al., HeteroPrio, 2016).
    """
    best: tuple[int, float, float, str] | None = None
    chosen: Cell | None = None
    is_ordered = bool(progress.plan.bands)
    for advantage, rival, cell in _preferences(progress, pool, capacity):
        if best is not None and advantage < best[1] and not is_ordered:
            break
        head = progress.ready.head(cell) if cell in progress.ready.heaps else None
        if head is None:
            continue
        key, rank = head
        outlook = progress.outlook(key)
        if (
            pool.memory_bytes is not None
            and progress.used_memory[pool.name] + outlook.memory_bytes > pool.memory_bytes
        ):
            continue
        if advantage < 0:
            soon = outlook.seconds[rival] + progress.work_left / capacity[rival]
            if outlook.seconds[pool.name] > soon:
                continue
        found = (-progress.band(key), advantage, rank, key)
        if best is None or found > best:
            best, chosen = found, cell
    return chosen


def _preferences(
    progress: Progress, pool: Pool, capacity: Mapping[str, int]
) -> list[tuple[float, str, Cell]]:
    """The cells that fit the pool, those first that it is comparatively best at.

    With each how much longer the quickest other pool with slots takes, in steps (below 0 where it is quicker), and that pool.
    """
    names = list(progress.pools)
    open_pools = tuple(name for name in names if name == pool.name or capacity.get(name, 0) > 0)
    cells = progress.forecast.cells
    asked = (pool.name, open_pools, len(cells))
    if asked not in progress.preferences:
        found = []
        for cell in cells.values():
            steps = dict(zip(names, cell.steps, strict=True))
            others = [(steps[name], name) for name in open_pools if name != pool.name]
            elsewhere, rival = min(others, default=(math.inf, ""))
            if steps[pool.name] < math.inf:
                found.append((elsewhere - steps[pool.name], rival, cell))
        found.sort(key=lambda preference: -preference[0])
        progress.preferences[asked] = found
    return progress.preferences[asked]


def _overdue(progress: Progress, at: float) -> list[Order]:
    orders: list[Order] = []
    while progress.deadlines and progress.deadlines[0][0] <= at:
        _, attempt_id = heapq.heappop(progress.deadlines)
        attempt = progress.running.get(attempt_id)
        if attempt is None:
            continue
        orders.append(Cancel(attempt_id=attempt_id, force=attempt.asked_at is not None))
        if attempt.asked_at is None:
            attempt.asked_at = at
            heapq.heappush(progress.deadlines, (at + KILL_AFTER_SECONDS, attempt_id))
    return orders


def _starved(progress: Progress, capacity: Mapping[str, int], at: float) -> list[Order]:
    """Work is waiting, nothing runs, and no pool that it fits has had a slot for a while: say so instead of waiting."""
    waiting = progress.counts[UnitState.READY]
    if progress.running or not waiting:
        progress.slotless_since = None
        return []
    if progress.slotless_since is None:
        progress.slotless_since = at
    if at - progress.slotless_since < STARVED_SECONDS:
        return []
    have = ", ".join(f"{name}: {capacity.get(name, 0)}" for name in progress.pools)
    progress.stop = Stop(
        reason=f"no pool has had a slot for {STARVED_SECONDS:.0f} s for the {waiting} units that are ready ({have})",
        failure_class=FailureClass.ENVIRONMENT,
    )
    return [progress.stop]


def _done(progress: Progress, report: UnitReport) -> None:
    before = progress.states.get(report.key, UnitState.DONE)
    if before is UnitState.DONE:
        return
    if before not in ENDED:
        progress.work_left -= progress.work(report.key)
    progress.reasons.pop(report.key, None)
    _enter(progress, report.key, UnitState.DONE)
    for reader in progress.readers.get(report.key, ()):
        if reader in progress.missing:
            progress.missing[reader] -= 1
            if progress.missing[reader] == 0 and progress.states[reader] is UnitState.WAITING:
                _make_ready(progress, reader)


def _failed(progress: Progress, key: str, failure: Failure, at: float, *, was_alone: bool) -> None:
    counts = progress.failures.setdefault(key, Counter())
    counts[failure.failure_class] += was_alone or not retry.POLICY[failure.failure_class].alone
    progress.reasons[key] = failure
    decision = retry.after(failure.failure_class, counts, was_alone=was_alone)
    match decision.action:
        case Action.RETRY:
            if decision.alone:
                progress.alone.add(key)
            _raise(progress.memory_factors, key, decision.memory_factor)
            _raise(progress.deadline_factors, key, decision.deadline_factor)
            rooms = progress.outlook(key).rooms
            if not (rooms if progress.own_pools is None else rooms & progress.own_pools):
                _fail(
                    progress,
                    key,
                    replace(failure, error=f"{failure.error}; no pool has the memory to try again"),
                    UnitState.FAILED,
                )
                return
            _enter(progress, key, UnitState.WAITING)
            heapq.heappush(progress.delayed, (at + decision.delay, key))
        case Action.QUARANTINE:
            progress.quarantine[key] = failure
            _fail(progress, key, failure, UnitState.QUARANTINED)
        case Action.GIVE_UP:
            _fail(progress, key, failure, UnitState.FAILED)
        case Action.STOP_RUN:
            _enter(progress, key, UnitState.WAITING)
            heapq.heappush(progress.delayed, (at, key))
            progress.stop = progress.stop or Stop(
                reason=f"{decision.reason}: {failure.error}", failure_class=failure.failure_class
            )


def _raise(factors: dict[str, float], key: str, by: float) -> None:
    if by > 1.0:
        factors[key] = factors.get(key, 1.0) * by


def _fail(progress: Progress, key: str, failure: Failure, state: UnitState) -> None:
    """Ends a unit without a result, and every unit that needs it."""
    stack: list[tuple[str, Failure, UnitState]] = [(key, failure, state)]
    while stack:
        each, why, into = stack.pop()
        if progress.states.get(each, UnitState.DONE) in ENDED:
            continue
        progress.reasons[each] = why
        progress.work_left -= progress.work(each)
        _enter(progress, each, into)
        unit = progress.plan.units[each]
        upstream = Failure(
            failure_class=FailureClass.UPSTREAM,
            error=f"the {unit.task} that it needs failed ({why.failure_class})",
        )
        stack.extend((reader, upstream, UnitState.FAILED) for reader in progress.readers.get(each, ()))


def _make_ready(progress: Progress, key: str) -> None:
    if key in progress.held:
        return
    _enter(progress, key, UnitState.READY)
    band = progress.band(key)
    rank = progress.ranks[key] - BAND_RANK * band
    progress.ready.add(progress.plan.units[key], progress.outlook(key).cell, rank, band)


def _enter(progress: Progress, key: str, state: UnitState) -> None:
    old = progress.states.get(key)
    if old is not None:
        progress.counts[old] -= 1
    progress.states[key] = state
    progress.counts[state] += 1
    if state in ENDED:
        progress.held.discard(key)

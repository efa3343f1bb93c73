"""Effects. The one loop: decide, write down, carry out, wait, observe; it owns the clock, and no state but its journal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator import quarantine
from orchestrator.clusters.sharing import Share
from orchestrator.credentials import masked
from orchestrator.domain import Failure, FailureClass, Plan, Pool, Shard, Unit, UnitStatus
from orchestrator.errors import StoreError, Unreachable
from orchestrator.outbox import Outbox
from orchestrator.ports import Assignment, AttemptEnded, Backend, Clock, ObjectStore
from orchestrator.schedule.costs import Costs
from orchestrator.schedule.scheduling import (
    FAILURES,
    Cancel,
    Order,
    Progress,
    Start,
    Stop,
    begin,
    decide,
    drain,
    next_wake,
    observe,
)
from orchestrator.schedule.window import StopAt
from orchestrator.underway import Journal

SHORTEST_WAIT_SECONDS = 0.01
LONGEST_WAIT_SECONDS = 1.0  # so that a signal or a new node is noticed soon


class Watcher(Protocol):
    """Somebody who looks on: metrics, the terminal, the run's record."""

    def begun(self, start: Start, at: float) -> None:
        """An attempt starts."""

    def ended(self, event: AttemptEnded, shard: Shard, plan: Plan, at: float) -> None:
        """An attempt is over."""

    def looked(self, progress: Progress, capacity: Mapping[str, int], at: float) -> None:
        """The loop has gone round once."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Lets time pass."""
        time.sleep(seconds)


@dataclass(slots=True)
class Signals:
    """What the outside may ask of a running loop; set from a signal handler, read once a round."""

    drain: str = ""
    """Why to start nothing more; empty while nobody asked."""


@dataclass(slots=True, kw_only=True)
class Controller:
    """What the loop works with."""

    run_id: str
    store: ObjectStore
    backend: Backend
    clock: Clock
    payload: Callable[[Start], Any]
    """An order's values for the worker."""
    watchers: Sequence[Watcher] = ()
    signals: Signals = field(default_factory=Signals)
    stop: StopAt | None = None
    max_failures: int | None = None
    share: Share | None = None
    """This cluster's part, where several work on the plan."""
    journal: Journal = field(init=False)
    outbox: Outbox = field(init=False)
    """Records of failed attempts and of quarantine."""

    def __post_init__(self) -> None:
        name = f"{self.run_id}/{self.share.board.owner}" if self.share else self.run_id
        self.journal = Journal(self.store, name)
        self.outbox = Outbox(self.store)

    def run(
        self,
        plan: Plan,
        pools: Mapping[str, Pool],
        costs: Costs,
        misfits: Mapping[str, str],
        suspects: Collection[str] = (),
    ) -> Progress:
        """Carries out the plan until nothing is left to start and nothing runs; the final state."""
        progress = begin(plan, pools, costs, misfits, suspects)
        if self.share:
            self.share.join(progress)
        while not progress.is_over:
            self.round(progress)
            self.take_in(progress, self._wait(progress))
        self.close(progress)
        self._show(progress, self.backend.capacity())
        return progress

    def close(self, progress: Progress) -> None:
        """Nothing is left to start, and nothing runs."""
        self.journal.close()
        self.outbox.close()
        if self.share:
            with suppress(StoreError, Unreachable):  # the others find out by themselves, later
                self.share.close(progress)

    def round(self, progress: Progress) -> None:
        """Looks at the clock and the cluster once, and starts, cancels or stops what that leads to."""
        at = self.clock.now()
        capacity = self.backend.capacity()
        if self.share and (reason := self.share.look(progress, capacity, at)):
            self.signals.drain = self.signals.drain or reason
        self._heed(progress, at)
        orders = decide(progress, capacity, at)
        starts = [order for order in orders if isinstance(order, Start)]
        failure = self._write_down(starts, at) if starts else None
        for order in orders:
            if failure is None or not isinstance(order, Start):
                self._carry_out(order, progress.pools, at)
        if failure is not None:
            for start in starts:
                observe(progress, AttemptEnded(attempt_id=start.attempt_id, failure=failure), at)
        self.journal.tidy()
        self.outbox.deliver()
        self._show(progress, capacity)

    def _write_down(self, starts: Sequence[Start], at: float) -> Failure | None:
        """What cannot be written down does not start."""
        try:
            self.journal.begin(starts, at)
        except (StoreError, Unreachable) as error:
            return Failure(failure_class=FailureClass.STORAGE, error=masked(str(error)))
        return None

    def take_in(self, progress: Progress, ended: Sequence[AttemptEnded]) -> None:
        """Lets the scheduler see what ended, and records what failed, now or as soon as the store takes it."""
        for event in ended:
            at = self.clock.now()
            attempt = progress.running.get(event.attempt_id)
            known = len(progress.quarantine)
            observe(progress, event, at)
            if attempt is None:
                continue
            self.journal.end(event.attempt_id)
            self._record(progress, event, attempt.shard)
            for key in list(progress.quarantine)[known:]:
                unit, failure = progress.plan.units[key], progress.quarantine[key]
                self.outbox.put(
                    quarantine.quarantine_key(key), quarantine.record(unit, failure, self.run_id, at)
                )
            for watcher in self.watchers:
                watcher.ended(event, attempt.shard, progress.plan, at)
        self.outbox.deliver()

    def _show(self, progress: Progress, capacity: Mapping[str, int]) -> None:
        for watcher in self.watchers:
            watcher.looked(progress, capacity, self.clock.now())

    def _heed(self, progress: Progress, at: float) -> None:
        if self.signals.drain:
            drain(progress, self.signals.drain)
        if self.stop is not None and at >= self.stop.at:
            drain(progress, self.stop.reason)
        failed = sum(progress.states[key] in FAILURES for key in progress.failures)
        if self.max_failures is not None and failed > self.max_failures:
            drain(progress, f"{failed} units have failed; --max-failures allows {self.max_failures}")

    def _carry_out(self, order: Order, pools: Mapping[str, Pool], at: float) -> None:
        match order:
            case Start(attempt_id=attempt_id, shard=shard):
                self.backend.submit(
                    Assignment(
                        attempt_id=attempt_id,
                        shard=shard,
                        pool=pools[shard.pool],
                        payload=self.payload(order),
                    )
                )
                for watcher in self.watchers:
                    watcher.begun(order, at)
            case Cancel(attempt_id=attempt_id, force=force):
                self.backend.cancel(attempt_id, force=force)
            case Stop():
                pass

    def _wait(self, progress: Progress) -> Sequence[AttemptEnded]:
        seconds = min(LONGEST_WAIT_SECONDS, next_wake(progress, self.clock.now()))
        if progress.running:
            return self.backend.wait(seconds)
        if not progress.is_over:
            self.clock.sleep(max(seconds, SHORTEST_WAIT_SECONDS))
        return ()

    def _record(self, progress: Progress, event: AttemptEnded, shard: Shard) -> None:
        """One object for each attempt that failed in part or whole; a good attempt's record are its results."""
        failed = [report for report in event.reports if report.status is UnitStatus.FAILED and report.failure]
        rows = [
            self._row(event, shard, progress.plan.units[report.key], report.failure)
            for report in failed
            if report.failure
        ]
        if event.failure:
            rows += [self._row(event, shard, progress.plan.units[key], event.failure) for key in shard.units]
        if rows:
            key = f"runs/{self.run_id}/attempts/{event.attempt_id}.json"
            self.outbox.put(key, json.dumps(rows).encode())

    def _row(self, event: AttemptEnded, shard: Shard, unit: Unit, failure: Failure) -> dict[str, Any]:
        return {
            "unit_key": unit.key,
            "run_id": self.run_id,
            "registry": unit.model.registry,
            "model": unit.model.name,
            "version": unit.model.version,
            "model_digest": unit.model.digest,
            "recipe": unit.recipe,
            "shard_id": shard.id,
            "attempt": event.attempt_id,
            "pool": shard.pool,
            "node": event.node,
            "failure_class": failure.failure_class.value,
            "error": failure.error,
            "file": failure.file,
            "line": failure.line,
        }

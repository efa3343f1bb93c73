"""Effects. A run's metrics while it lives; state gauges follow the plan and the scheduler's state, so a restart does not lie."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server

from orchestrator.domain import FailureClass, Plan, Pool, Shard, TaskName, UnitStatus
from orchestrator.ports import AttemptEnded
from orchestrator.schedule.costs import Costs, money
from orchestrator.schedule.placement import Placement
from orchestrator.schedule.scheduling import Progress, Start, UnitState
from orchestrator.watching.last_scrape import Scrapes
from orchestrator.watching.metrics import FINDING_KINDS, RUN, register


class RunMetrics:
    """The metrics of one run, in a registry of their own."""

    def __init__(self, pools: Mapping[str, Pool], costs: Costs | None = None):
        self.pools = pools
        self.costs = costs or Costs()
        self.registry = CollectorRegistry()
        self.begun_at: dict[str, float] = {}
        self.found_before = 0
        self.quarantined_before = 0
        self._metrics: dict[str, Any] = dict(register(RUN, self.registry))
        self._make_series()

    def _make_series(self) -> None:
        """Every series is there before anything happens, so that `increase` and ratios hold from the start."""
        of = self._metrics
        of["run_exit_code"].set(-1)
        for state in UnitState:
            of["units"].labels(state.value)
        for pool in self.pools:
            names = ("shard_duration_seconds", "queue_wait_seconds", "cost_dollars")
            for name in (*names, "predicted_seconds", "measured_seconds"):
                of[name].labels(pool)
            for outcome in UnitStatus:
                of["unit_attempts"].labels(pool, outcome.value)
            for slot_state in ("total", "used"):
                of["pool_slots"].labels(pool, slot_state)
        for failure_class in FailureClass:
            of["unit_failures"].labels(failure_class.value)
        for task in TaskName:
            of["unit_duration_seconds"].labels(task.value)
        for finding in (*FINDING_KINDS, "other"):
            of["findings"].labels(finding)

    @contextmanager
    def served(self, port: int, address: str = "127.0.0.1") -> Iterator[Scrapes]:
        """Serves /metrics within the block, at the port that `Scrapes` names, also when 0 asked for a free one. Errors: OSError, if it is taken."""
        server, thread = start_http_server(port, addr=address, registry=self.registry)
        scrapes = Scrapes(make_wsgi_app(self.registry), int(server.server_port))
        server.set_app(scrapes)
        try:
            yield scrapes
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def named(self, fleet: str, run_id: str, version: str) -> None:
        """Whose run it is."""
        self._metrics["run_info"].labels(fleet, run_id, version).set(1)

    def planned(self, plan: Plan, placement: Placement, at: float) -> None:
        """The plan is made, or made again after a restart: what the store knows counts from the first scrape."""
        of = self._metrics
        self.found_before, self.quarantined_before = len(plan.done), len(plan.quarantined)
        of["plan_lower_bound_seconds"].set(placement.lower_bound_seconds)
        of["plan_cost_dollars"].set(_least_price(placement, self.pools))
        of["plan_impossible"].set(len(plan.impossible) + len(placement.misfits))
        of["run_start_timestamp_seconds"].set(at)
        of["run_last_progress_timestamp_seconds"].set(at)
        of["memo_hits"].inc(len(plan.done))
        self._count(Counter({UnitState.WAITING: len(plan.todo)}))

    def begun(self, start: Start, at: float) -> None:
        """An attempt starts."""
        self.begun_at[start.attempt_id] = at

    def ended(self, event: AttemptEnded, shard: Shard, plan: Plan, at: float) -> None:
        """An attempt is over."""
        of, pool = self._metrics, self.pools[shard.pool]
        of["shard_duration_seconds"].labels(pool.name).observe(event.wall_seconds)
        of["cost_dollars"].labels(pool.name).inc(money(event.wall_seconds, pool))
        of["run_last_progress_timestamp_seconds"].set(at)
        begun_at = self.begun_at.pop(event.attempt_id, None)
        if begun_at is not None and not event.failure:
            of["queue_wait_seconds"].labels(pool.name).observe(max(0.0, at - begun_at - event.wall_seconds))
        for report in event.reports:
            of["unit_attempts"].labels(pool.name, report.status.value).inc()
            if report.status is UnitStatus.DONE:
                unit = plan.units[report.key]
                of["unit_duration_seconds"].labels(unit.task.value).observe(report.wall_seconds)
                of["predicted_seconds"].labels(pool.name).inc(self.costs.estimate(unit, pool).seconds)
                of["measured_seconds"].labels(pool.name).inc(report.wall_seconds)
            if report.status is UnitStatus.FOUND:
                of["memo_hits"].inc()
            if report.failure:
                of["unit_failures"].labels(report.failure.failure_class.value).inc()
            for kind in report.findings:
                of["findings"].labels(kind if kind in FINDING_KINDS else "other").inc()
        if event.failure:
            count = len(shard.units)
            of["unit_attempts"].labels(pool.name, UnitStatus.FAILED.value).inc(count)
            of["unit_failures"].labels(event.failure.failure_class.value).inc(count)

    def looked(self, progress: Progress, capacity: Mapping[str, int], at: float) -> None:
        """The loop has gone round once."""
        of = self._metrics
        self._count(progress.counts)
        for name in self.pools:
            of["pool_slots"].labels(name, "total").set(capacity.get(name, 0))
            of["pool_slots"].labels(name, "used").set(progress.used_slots[name])
        of["run_last_look_timestamp_seconds"].set(at)
        of["run_expected_completion_timestamp_seconds"].set(
            at + progress.seconds_left(sum(capacity.values()))
        )

    def closed(self, exit_code: int, at: float) -> None:
        """The run is over."""
        self._metrics["run_end_timestamp_seconds"].set(at)
        self._metrics["run_exit_code"].set(exit_code)

    def _count(self, counts: Mapping[UnitState, int]) -> None:
        before = {UnitState.DONE: self.found_before, UnitState.QUARANTINED: self.quarantined_before}
        for state in UnitState:
            self._metrics["units"].labels(state.value).set(counts.get(state, 0) + before.get(state, 0))


def _least_price(placement: Placement, pools: Mapping[str, Pool]) -> float:
    prices = (money(seconds, pools[name]) for name, seconds in placement.work_seconds.items())
    return min((price for price in prices if math.isfinite(price)), default=0.0)

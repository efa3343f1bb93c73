"""Effects. Every metric's name, help and labels, in one place; labels come from closed sets, never from a model's name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Gauge, Histogram, start_http_server
from prometheus_client import Counter as Total

from orchestrator.costs import money
from orchestrator.domain import FailureClass, Judgement, Plan, Pool, Shard, TaskName, UnitStatus
from orchestrator.ports import AttemptEnded
from orchestrator.scheduling import Progress, Start, UnitState

DURATIONS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
FINDING_KINDS = (
    "budget_missed",
    "calibration_passes",
    "cannot_tell",
    "dead_input",
    "examples_differ",
    "expert_tokens",
    "extra_file",
    "ignored_config_key",
    "inseparable_units",
    "kept_least",
    "missing_cluster",
    "missing_slice",
    "more_zeros",
    "no_batch_norm",
    "no_bias",
    "no_change",
    "no_examples",
    "no_gain",
    "no_gpu",
    "no_prefix_reuse",
    "no_recovery",
    "no_slices",
    "no_speedup",
    "non_finite_answer",
    "non_finite_loss",
    "nondeterminism",
    "not_computable",
    "not_finite",
    "not_optimal",
    "quality_missed",
    "raised_damping",
    "skipped_examples",
    "skipped_file",
    "skipped_layer",
    "smaller_batch",
    "too_few_samples",
    "total_size",
    "truncated_examples",
    "ungated",
    "unknown_flops",
    "unused_tensor",
    "zero_effect",
    "zero_gradient",
    "zero_margin",
)
"""Kinds with a series of their own; every other kind is counted as `other`."""


class RunMetrics:
    """A run's metrics in a registry of their own; state gauges follow the scheduler's state, so a restart does not lie."""

    def __init__(self, pools: Mapping[str, Pool], recipes: Iterable[str]):
        self.pools = pools
        self.registry = CollectorRegistry()
        self.units = self._gauge("prunefleet_units", "Units of this run by state.", ["state"])
        self.attempts = self._total(
            "prunefleet_unit_attempts_total", "Unit attempts that ended.", ["pool", "outcome"]
        )
        self.failures = self._total(
            "prunefleet_unit_failures_total", "Failed unit attempts.", ["failure_class"]
        )
        self.unit_seconds = self._histogram(
            "prunefleet_unit_duration_seconds", "Wall time of a unit.", ["task"]
        )
        self.shard_seconds = self._histogram(
            "prunefleet_shard_duration_seconds", "Wall time of a shard.", ["pool"]
        )
        self.slots = self._gauge(
            "prunefleet_pool_slots", "Shards that a pool can run, and runs.", ["pool", "state"]
        )
        self.memo_hits = self._total("prunefleet_memo_hits_total", "Units found done before any work.", [])
        self.findings = self._total(
            "prunefleet_findings_total", "Findings that a person should know.", ["kind"]
        )
        self.verdicts = self._total("prunefleet_verdicts_total", "Verdicts of gates.", ["recipe", "verdict"])
        self.cost = self._total("prunefleet_cost_dollars_total", "Price of the shards' time.", ["pool"])
        self.lower_bound = self._gauge(
            "prunefleet_plan_lower_bound_seconds", "No schedule is faster than this.", []
        )
        self.expected = self._gauge(
            "prunefleet_run_expected_completion_timestamp_seconds",
            "When the run should end, by the cost model.",
            [],
        )
        self.impossible = self._gauge(
            "prunefleet_plan_impossible", "Things asked for that cannot be planned.", []
        )
        self.started = self._gauge("prunefleet_run_start_timestamp_seconds", "When this run began.", [])
        self.completed = self._gauge(
            "prunefleet_run_last_completion_timestamp_seconds", "When this run ended, however it ended.", []
        )
        self.succeeded = self._gauge(
            "prunefleet_run_last_success_timestamp_seconds", "When this run ended with exit code 0.", []
        )
        for state in UnitState:
            self.units.labels(state.value)
        for pool in pools:
            self.shard_seconds.labels(pool)
            self.cost.labels(pool)
            for outcome in UnitStatus:
                self.attempts.labels(pool, outcome.value)
            for slot_state in ("total", "used"):
                self.slots.labels(pool, slot_state)
        for kind in FailureClass:
            self.failures.labels(kind.value)
        for task in TaskName:
            self.unit_seconds.labels(task.value)
        for finding in (*FINDING_KINDS, "other"):
            self.findings.labels(finding)
        for recipe in recipes:
            for verdict in Judgement:
                self.verdicts.labels(recipe, verdict.value)

    def serve(self, port: int, address: str = "127.0.0.1") -> int:
        """Serves /metrics until the process ends; the port, also when 0 asked for a free one."""
        server, _ = start_http_server(port, addr=address, registry=self.registry)
        return int(server.server_port)

    def planned(self, plan: Plan, lower_bound_seconds: float, at: float) -> None:
        """The plan is made."""
        self.lower_bound.set(lower_bound_seconds)
        self.impossible.set(len(plan.impossible))
        self.started.set(at)

    def begun(self, start: Start, at: float) -> None:
        """An attempt starts."""

    def ended(self, event: AttemptEnded, shard: Shard, plan: Plan, at: float) -> None:
        """An attempt is over."""
        pool = self.pools[shard.pool]
        self.shard_seconds.labels(shard.pool).observe(event.wall_seconds)
        self.cost.labels(shard.pool).inc(money(event.wall_seconds, pool))
        for report in event.reports:
            self.attempts.labels(shard.pool, report.status.value).inc()
            if report.status is UnitStatus.DONE:
                self.unit_seconds.labels(plan.units[report.key].task.value).observe(report.wall_seconds)
            if report.status is UnitStatus.FOUND:
                self.memo_hits.inc()
            if report.failure:
                self.failures.labels(report.failure.failure_class.value).inc()
            for kind in report.findings:
                self.findings.labels(kind if kind in FINDING_KINDS else "other").inc()
        if event.failure:
            count = len(shard.units)
            self.attempts.labels(shard.pool, UnitStatus.FAILED.value).inc(count)
            self.failures.labels(event.failure.failure_class.value).inc(count)

    def looked(self, progress: Progress, capacity: Mapping[str, int], at: float) -> None:
        """The loop has gone round once."""
        for state in UnitState:
            self.units.labels(state.value).set(progress.counts[state])
        for name in self.pools:
            self.slots.labels(name, "total").set(capacity.get(name, 0))
            self.slots.labels(name, "used").set(progress.used_slots[name])
        self.expected.set(at + progress.seconds_left(sum(capacity.values())))

    def judged(self, verdicts: Counter[tuple[str, str]]) -> None:
        """(recipe, verdict) -> how many in this run."""
        for (recipe, verdict), count in verdicts.items():
            self.verdicts.labels(recipe, verdict).inc(count)

    def closed(self, exit_code: int, at: float) -> None:
        """The run is over."""
        self.completed.set(at)
        if exit_code == 0:
            self.succeeded.set(at)

    def _gauge(self, name: str, text: str, labels: list[str]) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _total(self, name: str, text: str, labels: list[str]) -> Total:
        return Total(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: list[str]) -> Histogram:
        return Histogram(name, text, labels, registry=self.registry, buckets=DURATIONS)

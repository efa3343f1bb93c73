"""Pure. Every metric's name, kind, help, labels and buckets, in one place; labels come from closed sets, never from a model's name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client import Counter as Total
from prometheus_client.metrics import MetricWrapperBase

DURATIONS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
WAITS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900)

FINDING_KINDS = (
    "budget_missed",
    "calibration_passes",
    "cannot_tell",
    "dead_input",
    "does_not_run",
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
    "no_head",
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
    "not_probed",
    "quality_missed",
    "raised_damping",
    "skipped_examples",
    "skipped_file",
    "skipped_layer",
    "slower_when_smaller",
    "smaller_batch",
    "too_few_samples",
    "total_size",
    "truncated_examples",
    "ungated",
    "unknown_flops",
    "unused_module",
    "unused_tensor",
    "zero_effect",
    "zero_gradient",
    "zero_margin",
)
"""Kinds with a series of their own; every other kind is counted as `other`."""

OUTCOMES = ("done", "found", "failed", "quarantined", "impossible", "carried_over")
"""How the units of a run ended."""
QUANTILES = ("0.5", "0.9", "1")
"""Of the models of a recipe; 1 is the worst model for a drop and the fastest for a speedup."""
AREAS = ("results", "artifacts", "runs", "quarantine", "leases", "tables", "other")
"""Parts of a store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What a metric is; its series are made when it is registered."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _gauge(name: str, text: str, *labels: str) -> Definition:
    return Definition(name=f"prunefleet_{name}", kind="gauge", help=text, labels=labels)


def _counter(name: str, text: str, *labels: str) -> Definition:
    return Definition(name=f"prunefleet_{name}_total", kind="counter", help=text, labels=labels)


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Definition:
    return Definition(name=f"prunefleet_{name}", kind="histogram", help=text, labels=labels, buckets=buckets)


RUN = (
    _gauge("run_info", "The run that this process carries out; always 1.", "fleet", "run_id", "version"),
    _gauge("units", "Units that the plan wants, by state; done ones include those of earlier runs.", "state"),
    _counter("unit_attempts", "Unit attempts that ended.", "pool", "outcome"),
    _counter("unit_failures", "Failed unit attempts.", "failure_class"),
    _histogram("unit_duration_seconds", "Wall time of a unit.", DURATIONS, "task"),
    _histogram("shard_duration_seconds", "Time that a shard's worker was at work; of one that died without a word, from its submission on.", DURATIONS, "pool"),
    _histogram("queue_wait_seconds", "From a shard's submission to its start, and its way back.", WAITS, "pool"),
    _gauge("pool_slots", "Shards that a pool can run, and runs.", "pool", "state"),
    _counter("memo_hits", "Units found done before any work."),
    _counter("findings", "Findings that a person should know.", "kind"),
    _counter("cost_dollars", "Price of that time.", "pool"),
    _gauge("plan_cost_dollars", "Price of the plan's work on the pool where it is cheapest, by the cost model."),
    _counter("predicted_seconds", "What the cost model expected of the units that were done.", "pool"),
    _counter("measured_seconds", "What the units that were done took.", "pool"),
    _gauge("plan_lower_bound_seconds", "No schedule is faster than this."),
    _gauge("plan_impossible", "Things asked for that cannot be planned."),
    _gauge("run_expected_completion_timestamp_seconds", "When the run should end, by the cost model."),
    _gauge("run_start_timestamp_seconds", "When this run began."),
    _gauge("run_last_look_timestamp_seconds", "When the controller's loop last went round."),
    _gauge("run_last_progress_timestamp_seconds", "When a unit last ended; the run's begin before the first."),
    _gauge("run_end_timestamp_seconds", "When this run ended, however it ended; 0 while it runs."),
    _gauge("run_exit_code", "How this run ended; -1 while it runs."),
)  # fmt: skip
"""Of a run, from the process that carries it out, while it lives."""

FLEET = (
    _gauge("exporter_last_read_timestamp_seconds", "When the store was last read to its end.", "fleet"),
    _gauge("exporter_read_duration_seconds", "How long that took.", "fleet"),
    _gauge("exporter_damaged_records", "Records of runs, nights and leases that could not be read, and are not reckoned with.", "fleet"),
    _counter("exporter_read_failures", "Reads of the store that failed.", "fleet"),
    _gauge("run_last_success_timestamp_seconds", "When a run last ended with exit code 0; 0 if none did.", "fleet"),
    _gauge("run_last_completion_timestamp_seconds", "When a run last ended, however it ended; 0 if none did.", "fleet"),
    _gauge("run_last_duration_seconds", "How long the last run took that ended.", "fleet"),
    _gauge("run_last_exit_code", "Exit code of the last run that ended; -1 if none did.", "fleet"),
    _gauge("run_last_units", "Units of the last run that ended, by how they ended.", "fleet", "outcome"),
    _gauge("run_last_cost_dollars", "Price of the time that units of the last run took.", "fleet"),
    _gauge("runs_open", "Runs that have begun and are not closed.", "fleet"),
    _gauge("run_last_update_timestamp_seconds", "When an open run last wrote its status; 0 if none is open.", "fleet"),
    _gauge("night_last_closed_timestamp_seconds", "When a night's slot was last closed; 0 if none was.", "fleet"),
    _gauge("night_overdue_timestamp_seconds", "When the first slot began after that of the last closed night; 0 if none has.", "fleet"),
    _gauge("night_tries", "Tries that the last closed night took.", "fleet"),
    _gauge("night_untold_messages", "Messages of the last closed night that did not arrive.", "fleet"),
    _gauge("quarantined_units", "Units in quarantine.", "fleet"),
    _gauge("commit_lag_units", "Results that are not yet in the tables.", "fleet"),
    _gauge("lease_epoch", "Rises whenever the lease of the fleet's nights changes hands.", "fleet"),
    _gauge("store_objects", "Objects in the store.", "fleet", "area"),
    _gauge("store_bytes", "Bytes in the store.", "fleet", "area"),
    _gauge("busy_seconds", "Time of all units whose results are in the tables.", "fleet", "pool", "task"),
    _gauge("spent_dollars", "Price of that time.", "fleet", "pool"),
    _gauge("models", "Model versions under a recipe, by their last verdict.", "fleet", "recipe", "verdict"),
    _gauge("model_dense_bytes", "Size of the models that were pruned, before.", "fleet", "recipe"),
    _gauge("model_bytes", "Their size after.", "fleet", "recipe"),
    _gauge("model_dense_parameters", "Parameters of the models that were pruned, before.", "fleet", "recipe"),
    _gauge("model_nonzero_parameters", "Their parameters after that are not zero.", "fleet", "recipe"),
    _gauge("model_dense_flops", "Operations of the models that were pruned, before.", "fleet", "recipe"),
    _gauge("model_effective_flops", "Their operations after; without those on zeros where they were counted.", "fleet", "recipe"),
    _gauge("model_quality_drop_ratio", "Relative loss of quality of a recipe's models on whole datasets.", "fleet", "recipe", "quantile"),
    _gauge("model_speedup_ratio", "Measured speed of a recipe's models over that of the dense ones.", "fleet", "recipe", "quantile"),
    _gauge("published_models", "Moves of an alias to a model, in all.", "fleet"),
)  # fmt: skip
"""Of a fleet, from the exporter, which reads the store and is always there."""


def register(definitions: Iterable[Definition], registry: CollectorRegistry) -> dict[str, MetricWrapperBase]:
    """Makes the metrics in a registry; by name without `prunefleet_` and without a counter's `_total`."""
    made: dict[str, MetricWrapperBase] = {}
    for one in definitions:
        short = one.name.removeprefix("prunefleet_").removesuffix("_total")
        match one.kind:
            case "gauge":
                made[short] = Gauge(one.name, one.help, one.labels, registry=registry)
            case "counter":
                made[short] = Total(one.name, one.help, one.labels, registry=registry)
            case "histogram":
                made[short] = Histogram(
                    one.name, one.help, one.labels, registry=registry, buckets=one.buckets
                )
    return made

"""Pure. The seven dashboards: a fleet, its nights, a run, pools and cost, quality and gates, storage and failures, Ray's nodes."""

from __future__ import annotations

from panels import Board, Panel

FLEET = ("fleet", "label_values(prunefleet_run_last_completion_timestamp_seconds, fleet)")
RECIPE = ("recipe", "label_values(prunefleet_models, recipe)")
POOL = ("pool", "label_values(prunefleet_pool_slots, pool)")
JOB, INSTANCE = (
    ("job", "label_values(prunefleet_units, job)"),
    ("instance", "label_values(prunefleet_units, instance)"),
)
"""Of runs that live: each cluster of a run is scraped by itself."""
NODE = ("instance", "label_values(ray_node_cpu_utilization, instance)")
ONE, LIVE, RATE = 'fleet=~"$fleet"', 'job=~"$job", instance=~"$instance"', "$__rate_interval"


def number(title: str, query: str, unit: str, description: str, width: int = 6, alert: str = "") -> Panel:
    """One value."""
    return Panel(
        title=title, query=query, unit=unit, description=description, width=width, is_stat=True, alert=alert
    )


def lines(
    title: str, query: str, unit: str, legend: str, description: str, width: int = 12, alert: str = ""
) -> Panel:
    """Values over time."""
    return Panel(
        title=title, query=query, unit=unit, legend=legend, description=description, width=width, alert=alert
    )


OVERVIEW = Board(
    uid="prunefleet-fleet",
    title="prunefleet / Fleet overview",
    description="Is every fleet well: when did it last succeed, what is published, what was saved.",
    since="now-7d",
    variables=(FLEET,),
    leads_to=(("Night", "prunefleet-night"), ("Model quality", "prunefleet-quality"), ("Storage", "prunefleet-storage")),
    panels=(
        number(
            "Since the last run ended", f"time() - (max by (fleet) (prunefleet_run_last_completion_timestamp_seconds{{{ONE}}}) > 0)", "s",
            "However it ended. More than the schedule explains: look at the night, then at `prunefleet status`.", alert="PrunefleetRunMissed",
        ),
        number(
            "Last exit code", f"max by (fleet) (prunefleet_run_last_exit_code{{{ONE}}})", "none",
            "0 done, 3 a gate blocked, 4 some failed, 5 a gate could not tell, 69 a service is away, 75 interrupted, 77 not permitted.", alert="PrunefleetRunFailed",
        ),
        number(
            "Blocked models", f'sum by (fleet) (prunefleet_models{{{ONE}, verdict="block"}})', "short",
            "Model versions whose last verdict is a block. The report names them and the slice that was hurt.", alert="PrunefleetBlockedRatioHigh",
        ),
        number(
            "Units in quarantine", f"sum by (fleet) (prunefleet_quarantined_units{{{ONE}}})", "short",
            "Units that are their model's own fault and are not tried again; `prunefleet explain` tells why.", alert="PrunefleetQuarantineGrowing",
        ),
        Panel(
            title="Alerts that fire", query='count by (alertname) (ALERTS{alertname=~"Prunefleet.+", alertstate="firing"}) or 0 * count(fleet:prunefleet_exporter_last_read_timestamp_seconds:max_3d)',
            unit="short", legend="{{alertname}}", width=24, has_alerts=True,
            description="By name; a click on a line opens what to do. None is a line at zero; where Prometheus has not loaded the rules there is no line at all.",
        ),
        lines(
            "Models by verdict", f"sum by (verdict) (prunefleet_models{{{ONE}}})", "short", "{{verdict}}",
            "Model versions under recipes, by their last verdict.",
        ),
        lines(
            "Bytes saved", f"sum by (fleet) (prunefleet_model_dense_bytes{{{ONE}}}) - sum by (fleet) (prunefleet_model_bytes{{{ONE}}})",
            "bytes", "{{fleet}}", "Files before minus files after. Masks without an encoding save nothing here; cuts do.",
        ),
        lines(
            "Share of parameters that stayed",
            f"sum by (recipe) (prunefleet_model_nonzero_parameters{{{ONE}}}) / sum by (recipe) (prunefleet_model_dense_parameters{{{ONE}}})",
            "percentunit", "{{recipe}}", "Parameters that are not zero, of those of the dense models, by recipe.",
        ),
        lines(
            "Aliases moved, in all", f"sum by (fleet) (prunefleet_published_models{{{ONE}}})", "short", "{{fleet}}",
            "Moves of an alias to a model. `prunefleet history` lists them.",
        ),
    ),
)  # fmt: skip

NIGHT = Board(
    uid="prunefleet-night",
    title="prunefleet / Night",
    description="What happened tonight: did it run, how long, with how many tries, what was carried over.",
    since="now-2d",
    variables=(FLEET,),
    leads_to=(("Run", "prunefleet-run"), ("Pools and cost", "prunefleet-pools"), ("Fleet", "prunefleet-fleet")),
    panels=(
        number(
            "Since a night was closed", f"time() - (max by (fleet) (prunefleet_night_last_closed_timestamp_seconds{{{ONE}}}) > 0)", "s",
            "More than a slot and its window: the trigger does not fire, or nights do not come to their end.", alert="PrunefleetRunMissed",
        ),
        number(
            "Tries of the last night", f"max by (fleet) (prunefleet_night_tries{{{ONE}}})", "short",
            "More than one: a night was killed or a service was away. The morning report tells which.",
        ),
        number(
            "Messages that did not arrive", f"sum by (fleet) (prunefleet_night_untold_messages{{{ONE}}})", "short",
            "Of the last closed night. The next morning report repeats what they said.", alert="PrunefleetMessagesUntold",
        ),
        number(
            "Runs open", f"sum by (fleet) (prunefleet_runs_open{{{ONE}}})", "short",
            "Runs that have begun and are not closed: one that works now, or one that died.", alert="PrunefleetRunAbandoned",
        ),
        lines(
            "Units of the last run", f"sum by (outcome) (prunefleet_run_last_units{{{ONE}}})", "short", "{{outcome}}",
            "How the units of the last run ended; what is left was carried over.", alert="PrunefleetCarryOver",
        ),
        lines(
            "Duration of the last run", f"max by (fleet) (prunefleet_run_last_duration_seconds{{{ONE}}})", "s", "{{fleet}}",
            "A steady rise will outgrow the window; `prunefleet simulate` says what another slot would buy.",
        ),
        lines(
            "Price of the last run", f"sum by (fleet) (prunefleet_run_last_cost_dollars{{{ONE}}})", "currencyUSD", "{{fleet}}",
            "Time of units, at the price of their pool.", alert="PrunefleetBudgetBurn",
        ),
        lines(
            "Silence of open runs", f"time() - max by (fleet) (prunefleet_run_last_update_timestamp_seconds{{{ONE}}} > 0)", "s", "{{fleet}}",
            "Since an open run last wrote its status. Minutes: its controller is dead; the next trigger goes on.", alert="PrunefleetControllerSilent",
        ),
    ),
)  # fmt: skip

RUN = Board(
    uid="prunefleet-run",
    title="prunefleet / Run detail",
    description="A run while it lives: how far, how fast, what fails, when it ends.",
    since="now-3h",
    variables=(JOB, INSTANCE, POOL),
    leads_to=(("Pools and cost", "prunefleet-pools"), ("Model quality", "prunefleet-quality"), ("Ray nodes", "prunefleet-nodes")),
    panels=(
        number(
            "Units done", f'sum(prunefleet_units{{{LIVE}, state="done"}}) / sum(prunefleet_units{{{LIVE}}})', "percentunit",
            "Of all that the plan wants, those of earlier runs included.",
        ),
        number(
            "Time left", f"clamp_min(max(prunefleet_run_expected_completion_timestamp_seconds{{{LIVE}}}) - time(), 0)", "s",
            "By the cost model; units of a kind never seen before make it a guess.", alert="PrunefleetRunStalled",
        ),
        number(
            "Since a unit last ended", f"time() - max(prunefleet_run_last_progress_timestamp_seconds{{{LIVE}}})", "s",
            "Longer than the longest unit: see pools, then Ray's nodes.", alert="PrunefleetRunStalled",
        ),
        number(
            "Impossible", f"sum(prunefleet_plan_impossible{{{LIVE}}})", "short",
            "What the fleet asks for and cannot be planned; `prunefleet plan` tells why.",
        ),
        lines("Units by state", f"sum by (state) (prunefleet_units{{{LIVE}}})", "short", "{{state}}", "Where the plan's units stand."),
        lines(
            "Units that end", f'sum by (outcome) (rate(prunefleet_unit_attempts_total{{{LIVE}, pool=~"$pool"}}[{RATE}]))', "ops", "{{outcome}}",
            "Attempts at units that ended, a second.",
        ),
        lines(
            "Failures by class", f"sum by (failure_class) (increase(prunefleet_unit_failures_total{{{LIVE}}}[{RATE}]))", "short",
            "{{failure_class}}", "Whose fault: infrastructure and preemption cost nobody; poison and bad input are the model's.", alert="PrunefleetFailureRatioHigh",
        ),
        lines(
            "Findings by kind", f"sum by (kind) (increase(prunefleet_findings_total{{{LIVE}}}[{RATE}]))", "short", "{{kind}}",
            "What a person should know and is no failure. The report explains each.", alert="PrunefleetNondeterminism",
        ),
        lines(
            "Time of a unit, 95 of 100", f"histogram_quantile(0.95, sum by (le, task) (rate(prunefleet_unit_duration_seconds_bucket{{{LIVE}}}[{RATE}])))",
            "s", "{{task}}", "The slowest twentieth, by task.", 24,
        ),
    ),
)  # fmt: skip

POOLS = Board(
    uid="prunefleet-pools",
    title="prunefleet / Pools and cost",
    description="Are the machines busy, what do they cost, and can the predictions be trusted.",
    variables=(FLEET, POOL),
    leads_to=(("Run", "prunefleet-run"), ("Ray nodes", "prunefleet-nodes")),
    panels=(
        lines(
            "Slots in use", 'sum by (pool) (prunefleet_pool_slots{pool=~"$pool", state="used"}) / sum by (pool) (prunefleet_pool_slots{pool=~"$pool", state="total"})',
            "percentunit", "{{pool}}", "Low while units wait: work does not fit there, or waits for other units.", alert="PrunefleetPoolStarved",
        ),
        lines(
            "Slots there", 'sum by (pool) (prunefleet_pool_slots{pool=~"$pool", state="total"})', "short", "{{pool}}",
            "What nodes give each pool. A drop is a lost or preempted node.", alert="PrunefleetPoolsLost",
        ),
        lines(
            "Dollars an hour", f'3600 * sum by (pool) (rate(prunefleet_cost_dollars_total{{pool=~"$pool"}}[{RATE}]))', "currencyUSD",
            "{{pool}}", "Price of the shards' time while a run lives.", alert="PrunefleetBudgetBurn",
        ),
        lines(
            "Spent so far", f'sum by (pool) (prunefleet_spent_dollars{{{ONE}, pool=~"$pool"}})', "currencyUSD", "{{pool}}",
            "Price of all units whose results are in the tables.",
        ),
        lines(
            "Busy time by task", f'sum by (task) (prunefleet_busy_seconds{{{ONE}, pool=~"$pool"}})', "s", "{{task}}",
            "Time of all units whose results are in the tables.",
        ),
        lines(
            "Measured over predicted",
            f'sum by (pool) (rate(prunefleet_measured_seconds_total{{pool=~"$pool"}}[{RATE}])) / sum by (pool) (rate(prunefleet_predicted_seconds_total{{pool=~"$pool"}}[{RATE}]))',
            "percentunit", "{{pool}}", "About one where the cost model is right; it learns from every run.", alert="PrunefleetCostModelDrift",
        ),
        lines(
            "Wait of a shard, 95 of 100", f'histogram_quantile(0.95, sum by (le, pool) (rate(prunefleet_queue_wait_seconds_bucket{{pool=~"$pool"}}[{RATE}])))',
            "s", "{{pool}}", "From submission to start, and the way back. Seconds: the cluster's head is overloaded.",
        ),
        lines(
            "Time of a shard, 95 of 100", f'histogram_quantile(0.95, sum by (le, pool) (rate(prunefleet_shard_duration_seconds_bucket{{pool=~"$pool"}}[{RATE}])))',
            "s", "{{pool}}", "What is lost when a worker dies.",
        ),
    ),
)  # fmt: skip

QUALITY = Board(
    uid="prunefleet-quality",
    title="prunefleet / Model quality and gates",
    description="What compression costs and brings, recipe by recipe.",
    since="now-30d",
    variables=(FLEET, RECIPE),
    leads_to=(("Fleet", "prunefleet-fleet"), ("Run", "prunefleet-run")),
    panels=(
        lines(
            "Verdicts", f'sum by (recipe, verdict) (prunefleet_models{{{ONE}, recipe=~"$recipe"}})', "short", "{{recipe}} {{verdict}}",
            "Model versions by their last verdict. A recipe that blocks more than it used to has met new models, or worse data.", alert="PrunefleetBlockedRatioHigh",
        ),
        lines(
            "Loss of quality", f'max by (recipe, quantile) (prunefleet_model_quality_drop_ratio{{{ONE}, recipe=~"$recipe"}})', "percentunit",
            "{{recipe}} q{{quantile}}", "Relative, on whole datasets. The harm to single groups is in the report.",
        ),
        lines(
            "Measured speed over dense", f'min by (recipe, quantile) (prunefleet_model_speedup_ratio{{{ONE}, recipe=~"$recipe"}})', "none",
            "{{recipe}} q{{quantile}}", "About one: zeros that no runtime uses. Only cuts make dense runtimes faster.",
        ),
        lines(
            "Bytes that stayed",
            f'sum by (recipe) (prunefleet_model_bytes{{{ONE}, recipe=~"$recipe"}}) / sum by (recipe) (prunefleet_model_dense_bytes{{{ONE}, recipe=~"$recipe"}})',
            "percentunit", "{{recipe}}", "Files after, of those before.",
        ),
        lines(
            "Operations that stayed",
            f'sum by (recipe) (prunefleet_model_effective_flops{{{ONE}, recipe=~"$recipe"}}) / sum by (recipe) (prunefleet_model_dense_flops{{{ONE}, recipe=~"$recipe"}})',
            "percentunit", "{{recipe}}", "Cuts lower them anywhere; zeros only where a runtime skips them, and are counted where a budget asked for it.", 24,
        ),
    ),
)  # fmt: skip

STORAGE = Board(
    uid="prunefleet-storage",
    title="prunefleet / Storage and failures",
    description="Does the store grow as it should, are tables up to date, is the exporter's own view fresh.",
    variables=(FLEET,),
    leads_to=(("Fleet", "prunefleet-fleet"), ("Night", "prunefleet-night")),
    panels=(
        lines("Objects", f"sum by (area) (prunefleet_store_objects{{{ONE}}})", "short", "{{area}}", "`prunefleet gc` shows what nothing points to."),
        lines("Bytes", f"sum by (area) (prunefleet_store_bytes{{{ONE}}})", "bytes", "{{area}}", "Artifacts are the bulk; old ones go with `prunefleet gc`.", alert="PrunefleetStoreGrowing"),
        lines(
            "Results not yet in the tables", f"sum by (fleet) (prunefleet_commit_lag_units{{{ONE}}})", "short", "{{fleet}}",
            "Falls to zero with each run's end and each query.", alert="PrunefleetCommitLagHigh",
        ),
        lines(
            "Units in quarantine", f"sum by (fleet) (prunefleet_quarantined_units{{{ONE}}})", "short", "{{fleet}}",
            "`run --retry-quarantined` tries them again once the model is mended.", alert="PrunefleetQuarantineGrowing",
        ),
        lines(
            "Age of the exporter's view", f"time() - max by (fleet) (prunefleet_exporter_last_read_timestamp_seconds{{{ONE}}})", "s", "{{fleet}}",
            "Longer than a few minutes: it cannot read the store.", alert="PrunefleetExporterStale",
        ),
        lines(
            "Time to read the store", f"max by (fleet) (prunefleet_exporter_read_duration_seconds{{{ONE}}})", "s", "{{fleet}}",
            "Grows with the number of objects.",
        ),
        lines(
            "Reads that failed", f"sum by (fleet) (increase(prunefleet_exporter_read_failures_total{{{ONE}}}[{RATE}]))", "short", "{{fleet}}",
            "Of the exporter. `prunefleet doctor` finds out why.", alert="PrunefleetExporterStale",
        ),
        lines(
            "Damaged records", f"max by (fleet) (prunefleet_exporter_damaged_records{{{ONE}}})", "short", "{{fleet}}",
            "Of runs, nights and leases. The exporter's log names them.", alert="PrunefleetRecordsDamaged",
        ),
        lines(
            "Lease of nights changed hands", f"max by (fleet) (prunefleet_lease_epoch{{{ONE}}})", "short", "{{fleet}}",
            "Once a night is usual; a steep rise: several triggers fight, or controllers die.", alert="PrunefleetLeaseFlapping",
        ),
    ),
)  # fmt: skip

NODES = Board(
    uid="prunefleet-nodes",
    title="prunefleet / Ray nodes",
    description="Ray's own view of the machines, beside the units that run on them.",
    since="now-3h",
    variables=(NODE,),
    leads_to=(("Pools and cost", "prunefleet-pools"), ("Run", "prunefleet-run")),
    panels=(
        lines("CPU", 'avg by (instance) (ray_node_cpu_utilization{instance=~"$instance"})', "percent", "{{instance}}", "Of all cores of a node."),
        lines(
            "Memory", 'max by (instance) (ray_node_mem_used{instance=~"$instance"}) / max by (instance) (ray_node_mem_total{instance=~"$instance"})', "percentunit", "{{instance}}",
            "Above 95 %, Ray kills workers: units are then tried with more memory.",
        ),
        lines("GPU", 'avg by (instance) (ray_node_gpus_utilization{instance=~"$instance"})', "percent", "{{instance}}", "Low on busy slots: units wait for data or for the CPU."),
        lines("GPU memory", 'sum by (instance) (ray_node_gram_used{instance=~"$instance"})', "mbytes", "{{instance}}", "Used on all GPUs of a node."),
        lines("Disk", 'max by (instance) (ray_node_disk_utilization_percentage{instance=~"$instance"})', "percent", "{{instance}}", "The node cache keeps to `cache_bytes`; the rest is others'."),
        lines("Network", f'sum by (instance) (rate(ray_node_network_received{{instance=~"$instance"}}[{RATE}]))', "Bps", "{{instance}}", "Models on their way to the node cache."),
        lines("Units that work", 'sum(prunefleet_units{state="running"})', "short", "", "Ours, to hold the above against."),
        lines("Workers killed for memory", f'sum by (instance) (increase(ray_memory_manager_worker_eviction_total{{instance=~"$instance"}}[{RATE}]))', "short", "{{instance}}", "Each is an attempt that is owed more memory."),
    ),
)  # fmt: skip

BOARDS = (OVERVIEW, NIGHT, RUN, POOLS, QUALITY, STORAGE, NODES)

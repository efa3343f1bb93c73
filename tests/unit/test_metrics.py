"""Metrics: a closed set of series, there from the start, and right after every event."""

from __future__ import annotations

import dataclasses
import re
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.commands.watching import observed
from orchestrator.controller import Signals
from orchestrator.domain import Failure, FailureClass, Shard, UnitReport, UnitStatus
from orchestrator.errors import UsageError
from orchestrator.ports import AttemptEnded
from orchestrator.schedule.placement import Placement
from orchestrator.schedule.scheduling import Start, begin, decide, observe
from orchestrator.watching.metrics import FINDING_KINDS, FLEET, RUN, register
from orchestrator.watching.run_metrics import RunMetrics

PLACEMENT = Placement(misfits={}, lower_bound_seconds=12.0, work_seconds={"cpu": 40.0}, peak_memory_bytes=1)


@pytest.fixture
def metrics(make_pool):
    return RunMetrics({"cpu": make_pool(price_per_hour=7200.0)})


def values(metrics):
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_series_is_there_before_anything_happened(metrics):
    seen = values(metrics)
    assert seen["prunefleet_unit_failures_total", "poison"] == 0
    assert seen["prunefleet_unit_attempts_total", "cpu", "done"] == 0


def test_every_name_has_the_prefix_and_a_base_unit(metrics):
    for family in metrics.registry.collect():
        assert family.name.startswith("prunefleet_")
        assert family.documentation.endswith(".")
        assert not family.name.endswith(("_ms", "_minutes", "_mb", "_percent"))


def test_ten_thousand_hostile_model_names_make_no_series_more(metrics, make_plan, make_model):
    before = len(values(metrics))
    names = [f"m{n}" + '"}\n\x1b[31m' * 20 for n in range(2_000)]
    plan = make_plan([make_model(name) for name in names])
    metrics.planned(plan, PLACEMENT, 0.0)
    for key in list(plan.units)[:500]:
        failure = Failure(failure_class=FailureClass.POISON, error=names[0])
        report = UnitReport(
            key=key, status=UnitStatus.FAILED, failure=failure, findings=(names[1], "zero_effect")
        )
        shard = type("S", (), {"pool": "cpu", "units": (key,)})()
        metrics.ended(AttemptEnded(attempt_id=names[2], reports=(report,)), shard, plan, 1.0)
    seen = values(metrics)
    assert len(seen) == before
    assert seen["prunefleet_findings_total", "other"] == 500
    assert seen["prunefleet_findings_total", "zero_effect"] == 500
    assert len(generate_latest(metrics.registry)) < 200_000


def test_a_run_is_told_as_it_happens(metrics, make_plan, make_pool, costs):
    plan = make_plan()
    progress = begin(plan, metrics.pools, costs, {})
    metrics.planned(plan, PLACEMENT, 1000.0)
    (start, *_) = [order for order in decide(progress, {"cpu": 2}, 1000.0) if isinstance(order, Start)]
    metrics.looked(progress, {"cpu": 2}, 1000.0)
    seen = values(metrics)
    assert seen["prunefleet_pool_slots", "cpu", "total"] == 2
    assert seen["prunefleet_pool_slots", "cpu", "used"] == progress.used_slots["cpu"]
    assert seen["prunefleet_units", "running"] > 0
    assert seen["prunefleet_run_expected_completion_timestamp_seconds",] > 1000.0

    reports = tuple(
        UnitReport(key=key, status=UnitStatus.DONE, wall_seconds=3.0) for key in start.shard.units
    )
    event = AttemptEnded(attempt_id=start.attempt_id, reports=reports, wall_seconds=36.0)
    observe(progress, event, 1036.0)
    metrics.ended(event, start.shard, plan, 1036.0)
    metrics.looked(progress, {"cpu": 2}, 1036.0)
    seen = values(metrics)
    assert seen["prunefleet_units", "done"] == len(reports)
    assert seen["prunefleet_unit_attempts_total", "cpu", "done"] == len(reports)
    assert seen["prunefleet_cost_dollars_total", "cpu"] == pytest.approx(36.0)
    assert seen["prunefleet_shard_duration_seconds_count", "cpu"] == 1


def test_a_dead_attempt_counts_for_each_of_its_units(metrics, make_plan):
    plan = make_plan()
    shard = type("S", (), {"pool": "cpu", "units": tuple(list(plan.units)[:3])})()
    failure = Failure(failure_class=FailureClass.INFRASTRUCTURE, error="node lost")
    metrics.ended(AttemptEnded(attempt_id="s1-1", failure=failure), shard, plan, 1.0)
    seen = values(metrics)
    assert seen["prunefleet_unit_failures_total", "infrastructure"] == 3
    assert seen["prunefleet_unit_attempts_total", "cpu", "failed"] == 3


def test_the_end_of_a_run_is_told_with_how_it_ended(metrics):
    assert values(metrics)["prunefleet_run_exit_code",] == -1
    assert values(metrics)["prunefleet_run_end_timestamp_seconds",] == 0
    metrics.closed(4, 50.0)
    assert values(metrics)["prunefleet_run_exit_code",] == 4
    assert values(metrics)["prunefleet_run_end_timestamp_seconds",] == 50.0


def test_after_a_restart_the_gauges_say_what_the_store_knows(metrics, make_plan):
    plan = make_plan()
    keys = list(plan.units)
    again = dataclasses.replace(plan, done=frozenset(keys[:4]), todo=tuple(keys[4:]))
    metrics.planned(again, PLACEMENT, 10.0)
    seen = values(metrics)
    assert seen["prunefleet_units", "done"] == 4
    assert seen["prunefleet_units", "waiting"] == len(keys) - 4
    assert seen["prunefleet_memo_hits_total",] == 4


def test_done_units_of_earlier_runs_stay_counted_while_the_loop_goes_round(metrics, make_plan, costs):
    plan = make_plan()
    keys = list(plan.units)
    again = dataclasses.replace(plan, done=frozenset(keys[:1]), todo=tuple(keys[1:]))
    metrics.planned(again, PLACEMENT, 10.0)
    metrics.looked(begin(again, metrics.pools, costs, {}), {"cpu": 2}, 11.0)
    seen = values(metrics)
    assert sum(value for (name, *_), value in seen.items() if name == "prunefleet_units") == len(keys)
    assert seen["prunefleet_run_last_look_timestamp_seconds",] == 11.0


def test_the_price_of_a_plan_is_that_of_its_cheapest_pool_that_can_do_all(metrics, make_plan, make_pool):
    dear = make_pool(name="gpu", price_per_hour=1e6)
    both = RunMetrics({**metrics.pools, "gpu": dear})
    work = {"cpu": 40.0, "gpu": float("inf")}
    both.planned(make_plan(), dataclasses.replace(PLACEMENT, work_seconds=work), 0.0)
    pool = metrics.pools["cpu"]
    assert values(both)["prunefleet_plan_cost_dollars",] == pytest.approx(40 / 3600 * 7200 / pool.slots)


def test_the_wait_of_a_shard_is_what_its_own_time_does_not_explain(metrics, make_plan):
    plan = make_plan()
    shard = Shard(id="s", units=(), pool="cpu", predicted_seconds=1.0, memory_bytes=1)
    metrics.begun(Start(attempt_id="a", shard=shard, limit_seconds=9.0), 100.0)
    metrics.ended(AttemptEnded(attempt_id="a", wall_seconds=3.0), shard, plan, 110.0)
    seen = values(metrics)
    assert seen["prunefleet_queue_wait_seconds_sum", "cpu"] == pytest.approx(7.0)
    assert seen["prunefleet_run_last_progress_timestamp_seconds",] == 110.0


@pytest.mark.parametrize("definition", [*RUN, *FLEET], ids=lambda one: one.name)
def test_every_definition_keeps_the_rules_of_names(definition):
    assert re.fullmatch(r"prunefleet_[a-z][a-z_]*[a-z]", definition.name)
    assert (definition.kind == "counter") == definition.name.endswith("_total")
    assert (definition.kind == "histogram") == bool(definition.buckets)
    assert list(definition.buckets) == sorted(set(definition.buckets))
    assert definition.help.endswith(".")
    assert not definition.name.endswith(("_ms", "_minutes", "_mb", "_percent", "_age_seconds"))
    assert not {"model", "version", "path", "unit", "node"} & set(definition.labels) or (
        definition.name == "prunefleet_run_info"
    )


def test_no_name_stands_twice_and_both_sets_can_be_served_together():
    names = [one.name for one in (*RUN, *FLEET)]
    assert len(set(names)) == len(names)
    registry = CollectorRegistry()
    assert len(register([*RUN, *FLEET], registry)) == len(names)


def test_finding_kinds_are_a_closed_sorted_set():
    assert list(FINDING_KINDS) == sorted(set(FINDING_KINDS))


def test_the_endpoint_listens_on_loopback_and_answers_until_the_run_ends(metrics):
    with (
        metrics.served(0) as scrapes,
        urllib.request.urlopen(f"http://127.0.0.1:{scrapes.port}/metrics", timeout=5) as answer,
    ):
        assert b"prunefleet_units" in answer.read()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{scrapes.port}/metrics", timeout=5)


def test_other_machines_are_let_in_only_where_that_is_said(metrics):
    with metrics.served(0) as scrapes, pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.2:{scrapes.port}/metrics", timeout=5)
    with (
        metrics.served(0, "0.0.0.0") as scrapes,
        urllib.request.urlopen(f"http://127.0.0.2:{scrapes.port}/metrics", timeout=5) as answer,
    ):
        assert b"prunefleet_units" in answer.read()


def test_to_be_open_without_a_port_is_refused():
    with (
        pytest.raises(UsageError, match="needs --metrics-port"),
        observed(None, "r", None, is_open=True, signals=Signals()),
    ):
        pass


def test_the_port_is_free_again_for_the_next_night(metrics):
    with metrics.served(0) as scrapes, pytest.raises(OSError, match="in use"), metrics.served(scrapes.port):
        pass
    with metrics.served(scrapes.port) as again:
        assert again.port == scrapes.port

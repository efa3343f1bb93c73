"""Metrics: a closed set of series, there from the start, and right after every event."""

from __future__ import annotations

import urllib.request

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.domain import Failure, FailureClass, UnitReport, UnitStatus
from orchestrator.metrics import FINDING_KINDS, RunMetrics
from orchestrator.ports import AttemptEnded
from orchestrator.scheduling import Start, begin, decide, observe


@pytest.fixture
def metrics(make_pool):
    return RunMetrics({"cpu": make_pool(price_per_hour=7200.0)}, ["half", "two-four"])


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
    assert seen["prunefleet_verdicts_total", "block", "half"] == 0
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
    metrics.planned(plan, 1.0, 0.0)
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
    metrics.planned(plan, 12.0, 1000.0)
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


def test_only_a_good_end_is_a_success(metrics):
    metrics.closed(4, 50.0)
    assert values(metrics)["prunefleet_run_last_success_timestamp_seconds",] == 0
    metrics.closed(0, 60.0)
    assert values(metrics)["prunefleet_run_last_success_timestamp_seconds",] == 60.0
    assert values(metrics)["prunefleet_run_last_completion_timestamp_seconds",] == 60.0


def test_finding_kinds_are_a_closed_sorted_set():
    assert list(FINDING_KINDS) == sorted(set(FINDING_KINDS))


def test_the_endpoint_listens_on_loopback_and_answers(metrics):
    port = metrics.serve(0)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert b"prunefleet_units" in answer.read()

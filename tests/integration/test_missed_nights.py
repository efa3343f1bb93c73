"""A missed night is told by the schedule: from the store's records over the exporter's gauge to the alert, as promtool sees it."""

from __future__ import annotations

import pytest
import yaml
from cases.prometheus import DASHBOARDS, promtool
from cases.slots import between
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.nights import nightrecords
from orchestrator.nights.due import overdue
from orchestrator.reports.morning import Night
from orchestrator.specs.nights import ScheduleSpec
from orchestrator.watching.exporting import Exporter

HOUR, DAY = 3600, 86_400
WEEKDAYS = ScheduleSpec(at=("01:00",), days=("mon", "tue", "wed", "thu", "fri"))
SCHEDULES = {
    "daily": ScheduleSpec(at=("01:00",)),
    "weekdays": WEEKDAYS,
    "weekly": ScheduleSpec(cron="0 1 * * 6"),
    "hourly": ScheduleSpec(cron="5 * * * *"),
}
[RULE] = [
    rule
    for group in yaml.safe_load((DASHBOARDS / "rules" / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
    if rule["alert"] == "PrunefleetRunMissed"
]
SPAN, BROKEN = 21 * DAY, 10 * DAY
FRIDAY, SATURDAY, MONDAY = (day * DAY + HOUR for day in (1, 2, 4))
"""One o'clock; the first of January 1970 was a Thursday."""


def exported(exporter, at):
    assert exporter.read(lambda: float(at)) == ""
    [value] = [
        sample.value
        for family in text_string_to_metric_families(exporter.text.decode())
        for sample in family.samples
        if sample.name == "prunefleet_night_overdue_timestamp_seconds"
    ]
    return value


def close(store, slot, scheduled_at, ended_at):
    night = Night(
        fleet="small", slot=slot, scheduled_at=scheduled_at, begun_at=scheduled_at, ended_at=ended_at, tries=1,
        trigger="", outcome="done", exit_code=0,
    )  # fmt: skip
    assert nightrecords.close(store, night, {})


def test_the_first_slot_since_that_of_the_last_closed_night_is_overdue_from_its_begin_on(local_store):
    exporter = Exporter("small", local_store, {}, [], WEEKDAYS)
    assert exported(exporter, MONDAY) == 0, "nothing was ever run here"
    close(local_store, "1970-01-02T0100", FRIDAY, FRIDAY + 2 * HOUR)
    assert exported(exporter, MONDAY - 1) == 0
    assert exported(exporter, MONDAY) == MONDAY
    assert exported(exporter, MONDAY + 3 * DAY) == MONDAY
    close(local_store, "1970-01-07T0100", MONDAY + 2 * DAY, MONDAY + 3 * DAY + HOUR)
    assert exported(exporter, MONDAY + 3 * DAY + HOUR) == MONDAY + 3 * DAY, (
        "a night covers its own slot alone"
    )


def test_a_fleet_without_a_schedule_has_no_night_that_could_be_missed(local_store):
    close(local_store, "1970-01-02T0100", FRIDAY, FRIDAY + 2 * HOUR)
    assert exported(Exporter("small", local_store, {}, []), 9 * DAY) == 0


def test_where_no_night_was_ever_closed_slots_count_from_the_last_run_on(local_store):
    status = f'{{"run_id": "r", "fleet": "small", "state": "ended", "finished_at": {SATURDAY}}}'
    local_store.put("runs/r/status.json", status.encode())
    assert exported(Exporter("small", local_store, {}, [], WEEKDAYS), MONDAY + DAY) == MONDAY


def history(schedule, until):
    """The gauge, hour by hour, of a fleet whose nights take two hours each, and of which none is run from `until` on."""
    begins = [slot.begins for slot in between(schedule, 0, until)]
    told = []
    for at in range(0, SPAN, HOUR):
        closed = [moment for moment in begins if moment + 2 * HOUR <= at]
        told.append(overdue(schedule, closed[-1], at) if closed else 0.0)
    return told


def judged(tmp_path, told):
    """Whether the alert fired at any hour of a gauge's history."""
    ends = f"{SPAN // HOUR - 1}h"
    fired = 'count(count_over_time(ALERTS{alertname="PrunefleetRunMissed", alertstate="firing"}[21d]))'
    series = {
        "series": 'prunefleet_night_overdue_timestamp_seconds{fleet="small"}',
        "values": " ".join(f"{value:.0f}" for value in told),
    }
    test = {
        "interval": "1h",
        "input_series": [series],
        "promql_expr_test": [{"expr": fired, "eval_time": ends}],
    }
    (tmp_path / "rule.yaml").write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": [RULE]}]}))
    page = tmp_path / "nights.test.yaml"
    page.write_text(
        yaml.safe_dump({"rule_files": ["rule.yaml"], "evaluation_interval": "1h", "tests": [test]})
    )
    done = promtool("test", "rules", str(page))
    assert done.returncode == 0 or "got: {} 1E+00" in done.stdout + done.stderr, done.stdout + done.stderr
    return done.returncode != 0


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_whose_nights_are_run_alarms_nobody_and_one_whose_trigger_is_dead_does(name, tmp_path):
    assert not judged(tmp_path, history(SCHEDULES[name], SPAN))
    assert judged(tmp_path, history(SCHEDULES[name], BROKEN))

"""The triggers that are shipped, put through the decision about slots: no night of any zone is missed, wherever the machine is."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
import yaml
from cases.manifests import CHART, DEPLOY, RENDERED
from cases.slots import between
from cronsim import CronSim

from orchestrator.nights.due import Duty, due
from orchestrator.specs.nights import ScheduleSpec

FIRST, LAST = datetime(2026, 10, 23, tzinfo=UTC), datetime(2026, 11, 3, tzinfo=UTC)
"""In which Europe, America and others set their clocks back."""
ZONES = ("UTC", "America/New_York", "Europe/Zurich", "Asia/Kathmandu", "Pacific/Chatham")
LATEST = 15 * 60 + 60
"""Seconds after its slot's beginning at which a night is begun, with the timer's own delay."""


def of_cron():
    (line,) = [
        line
        for line in (DEPLOY / "cron" / "prunefleet.cron").read_text().splitlines()
        if "nightly fleet" in line
    ]
    return " ".join(line.split()[:5])


def of_systemd():
    when = re.search("OnCalendar=(.*)", (DEPLOY / "systemd" / "prunefleet-nightly.timer").read_text())[1]
    return f"*/{re.fullmatch(r'[*]:0/([0-9]+)', when)[1]} * * * *"


def of_kubernetes():
    (cron,) = [m["spec"] for m in RENDERED["nightly"] if m["kind"] == "CronJob"]
    return cron["schedule"]


def of_helm():
    return yaml.safe_load((CHART / "values.yaml").read_text())["schedule"]


@pytest.mark.parametrize("trigger", [of_cron, of_systemd, of_kubernetes, of_helm])
@pytest.mark.parametrize("machine", ["UTC", "Asia/Kathmandu"])
def test_no_night_of_any_zone_is_missed_and_each_is_begun_soon(trigger, machine):
    ticks = []
    for tick in CronSim(trigger(), FIRST.astimezone(ZoneInfo(machine))):
        if tick > LAST:
            break
        ticks.append(tick.timestamp())
    for zone in ZONES:
        schedule = ScheduleSpec(at="01:00", time_zone=zone, window="1h")
        closed = {due(schedule, FIRST.timestamp(), set()).slot.name}
        for tick in ticks:
            decision = due(schedule, tick, closed)
            assert decision.duty in (Duty.DONE, Duty.RUN, Duty.WAIT), (zone, decision)
            assert decision.missed == ()
            if decision.duty is Duty.RUN:
                assert tick - decision.slot.begins < LATEST
                closed.add(decision.slot.name)
            if decision.duty is Duty.WAIT:
                closed.add(decision.slot.name)
        wanted = {slot.name for slot in between(schedule, FIRST.timestamp(), ticks[-1])}
        assert wanted <= closed, zone
        assert len(wanted) >= 10

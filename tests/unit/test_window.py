"""The hours in which a run may start work, held to a minute-by-minute reading of the wall clock in every zone."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo, available_timezones

import pytest

from orchestrator.errors import UsageError
from orchestrator.schedule.window import first_stop, open_until, parse_window

BERLIN = "Europe/Berlin"


def moment(text, zone="UTC"):
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("window", "at", "until"),
    [
        ("01:00-06:00", "2026-11-22T01:00", "2026-11-22T06:00"),
        ("01:00-06:00", "2026-11-22T05:59", "2026-11-22T06:00"),
        ("01:00-06:00", "2026-11-22T06:00", None),
        ("01:00-06:00", "2026-11-22T00:59", None),
        ("22:00-06:00", "2026-11-22T23:00", "2026-11-23T06:00"),
        ("22:00-06:00", "2026-11-22T03:00", "2026-11-22T06:00"),
        ("22:00-06:00", "2026-11-22T12:00", None),
        ("22:00-06:00", "2026-12-31T23:59", "2027-01-01T06:00"),
        ("00:00-23:59", "2024-02-29T12:00", "2024-02-29T23:59"),
    ],
)
def test_a_window_is_open_from_its_first_moment_until_before_its_last(window, at, until):
    found = open_until(parse_window(window, UTC), moment(at))
    assert found == (moment(until) if until else None)


@pytest.mark.parametrize(
    ("window", "at", "until", "hours"),
    [
        ("01:00-06:00", "2026-03-29T01:30", "2026-03-29T06:00", 3.5),  # the clocks go from 2 to 3
        ("01:00-06:00", "2026-10-25T01:30", "2026-10-25T06:00", 5.5),  # and from 3 to 2
        ("22:00-06:00", "2026-03-28T22:00", "2026-03-29T06:00", 7.0),
        ("22:00-06:00", "2026-10-24T22:00", "2026-10-25T06:00", 9.0),
    ],
)
def test_a_night_on_which_the_clocks_change_is_shorter_or_longer(window, at, until, hours):
    begun = moment(at, BERLIN)
    found = open_until(parse_window(f"{window} {BERLIN}", UTC), begun)
    assert found == moment(until, BERLIN)
    assert found - begun == hours * 3600


def test_a_time_that_comes_twice_closes_at_the_second_and_one_that_never_comes_closes_early():
    twice = open_until(parse_window(f"01:00-02:30 {BERLIN}", UTC), moment("2026-10-25T01:00", BERLIN))
    assert twice == datetime(2026, 10, 25, 1, 30, tzinfo=UTC).timestamp()
    never = open_until(parse_window(f"01:00-02:30 {BERLIN}", UTC), moment("2026-03-29T01:00", BERLIN))
    assert never <= datetime(2026, 3, 29, 1, 0, tzinfo=UTC).timestamp()


def test_in_every_zone_it_is_open_exactly_when_the_wall_clock_says_so():
    """On days without a change of the clocks; a change is looked at above."""
    chance = random.Random(0)
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        begin, end = chance.sample(range(0, 24 * 60, 5), 2)
        text = f"{begin // 60:02d}:{begin % 60:02d}-{end // 60:02d}:{end % 60:02d}"
        window = parse_window(f"{text} {name}", UTC)
        at = chance.randrange(int(moment("2020-01-01T00:00")), int(moment("2030-01-01T00:00")), 60)
        local = datetime.fromtimestamp(at, zone)
        offsets = {(local + timedelta(hours=hours)).utcoffset() for hours in range(-30, 31)}
        if len(offsets) > 1:
            continue
        minute = local.hour * 60 + local.minute
        is_open = begin <= minute < end if begin < end else minute >= begin or minute < end
        until = open_until(window, at)
        assert (until is not None) == is_open, (name, text, local)
        if until is not None:
            assert datetime.fromtimestamp(until, zone).strftime("%H:%M") == text[-5:]
            assert 0 < until - at <= 86_400


def test_the_zone_of_this_machine_holds_where_none_is_named():
    here = timezone(timedelta(hours=5))
    assert open_until(parse_window("05:00-06:00", here), 0.0) == 3600.0
    assert str(parse_window("05:00-06:00", here)) == "05:00-06:00"
    assert str(parse_window(f" 22:00-06:00  {BERLIN} ", here)) == f"22:00-06:00 {BERLIN}"


@pytest.mark.parametrize(
    "text",
    ["", "1-6", "01:00", "01:00-06:00-07:00", "25:00-26:00", "01:60-02:00", "01:00-01:00", "01:00-06:00 Mars/Olympus",
     "01:00-06:00 ../../etc/passwd", "01:00-06:00 /etc/localtime", "١٢:00-13:00 x", "01:00-06:00 Europe"],
)  # fmt: skip
def test_what_is_no_window_is_told_with_one_that_is(text):
    with pytest.raises(UsageError, match="window|time zone"):
        parse_window(text, UTC)


def test_whatever_ends_first_ends_the_run_and_is_named():
    window, at = parse_window("01:00-06:00", UTC), moment("2026-11-22T05:00")
    assert first_stop(None, None, at) is None
    assert first_stop(window, None, at).at == moment("2026-11-22T06:00")
    assert first_stop(window, 0.5, at).at == at + 1800
    assert "0.5 hours" in first_stop(window, 0.5, at).reason
    assert "01:00-06:00 has ended" in first_stop(window, 2, at).reason
    closed = first_stop(window, 2, moment("2026-11-22T12:00"))
    assert closed.at == moment("2026-11-22T12:00")
    assert "is not open" in closed.reason


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kathmandu", "America/St_Johns"])
def test_the_machines_own_zone_knows_when_its_clocks_change(zone, monkeypatch):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        chance = random.Random(1)
        for _ in range(300):
            at = chance.randrange(int(moment("2026-01-01T00:00")), int(moment("2027-01-01T00:00")), 60)
            named = open_until(parse_window(f"01:30-06:15 {zone}", UTC), at)
            assert open_until(parse_window("01:30-06:15", None), at) == named
    finally:
        monkeypatch.undo()
        time.tzset()

"""Slots held to a reading of the wall clock minute by minute, and nights held to triggers that come 0, 1 or 2 times."""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from zoneinfo import ZoneInfo, available_timezones

import pytest
from cases.slots import between
from pydantic import ValidationError

from orchestrator.nights.due import EARLY_SECONDS, Duty, due
from orchestrator.nights.slots import following, instant, latest
from orchestrator.specs.nights import NotifySpec, ScheduleSpec

DAY = 86_400.0
BERLIN = "Europe/Berlin"
BEGIN, END = (datetime(year, 1, 1, tzinfo=UTC).timestamp() for year in (2026, 2036))


def moment(text, zone="UTC"):
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def every(at="01:00", zone="UTC", **more):
    return ScheduleSpec(at=at, time_zone=zone, **more)


@cache
def zones_that_differ():
    """One zone of each set whose rules are the same to the byte; the others are names for it."""
    found = {}
    for name in sorted(available_timezones()):
        place = files("tzdata.zoneinfo").joinpath(*name.split("/"))
        found.setdefault(place.read_bytes() if place.is_file() else name, name)
    return tuple(found.values())


@cache
def changes_of(zone_name, begin=BEGIN, end=END):
    """Noons (UTC) of the days on which the zone's offset changes."""
    zone = ZoneInfo(zone_name)
    days = [begin + DAY * number for number in range(int((end - begin) / DAY))]
    offsets = [datetime.fromtimestamp(day, zone).utcoffset() for day in days]
    return tuple(
        day + DAY / 2 for day, old, new in zip(days, offsets, offsets[1:], strict=False) if old != new
    )


def first_minute(zone, wall, around):
    """By looking at the clock every minute: the first at which it shows this time or a later one."""
    start = int(around - 3 * DAY) // 60 * 60
    for at in range(start, start + int(6 * DAY), 60):
        if datetime.fromtimestamp(at, zone).replace(tzinfo=None) >= wall:
            return float(at)
    raise AssertionError(wall)


def test_a_slot_is_the_first_minute_at_which_the_clock_shows_its_time_or_has_passed_it():
    chance = random.Random(0)
    looked = 0
    changing = [name for name in zones_that_differ() if changes_of(name)]
    for name in chance.sample(changing, 40):
        zone = ZoneInfo(name)
        for noon in chance.sample(changes_of(name), 1):
            date = datetime.fromtimestamp(noon, zone).replace(hour=0, minute=0, second=0, tzinfo=None)
            for days in (-1, 0, 1):
                wall = date + timedelta(days=days, minutes=15 * chance.randrange(0, 16))
                assert instant(wall, zone) == first_minute(zone, wall, noon), (name, wall)
                looked += 1
    assert looked > 60


@pytest.mark.parametrize(
    ("zone", "at", "date", "begins"),
    [
        (BERLIN, "02:30", "2026-03-29", "2026-03-29T01:00"),  # never shown: the gap's end
        (BERLIN, "02:30", "2026-10-25", "2026-10-25T00:30"),  # shown twice: the first
        ("Australia/Lord_Howe", "02:15", "2026-10-04", "2026-10-03T15:30"),  # a gap of half an hour
        ("Australia/Lord_Howe", "01:45", "2026-04-05", "2026-04-04T14:45"),
        ("America/Nuuk", "23:30", "2027-03-27", "2027-03-28T01:00"),  # a gap at midnight
    ],
)
def test_known_changes_of_the_clock(zone, at, date, begins):
    (slot,) = (s for s in between(every(at, zone), moment(f"{date}T00:00") - DAY, moment(f"{date}T00:00") + 2 * DAY)
               if s.name.startswith(date))  # fmt: skip
    assert slot.begins == moment(begins)


def test_a_day_that_never_comes_has_no_slot():
    begin = moment("2011-12-28T00:00")
    names = [slot.name[:10] for slot in between(every(zone="Pacific/Apia"), begin, begin + 5 * DAY)]
    assert "2011-12-29" in names
    assert "2011-12-30" not in names
    assert "2011-12-31" in names


def test_each_date_has_its_slot_once_in_every_zone_around_each_change():
    for name in zones_that_differ():
        for noon in changes_of(name)[:6]:
            slots = list(between(every("02:30", name), noon - 3 * DAY, noon + 3 * DAY))
            dates = [slot.name[:10] for slot in slots]
            first = datetime.fromisoformat(dates[0])
            assert dates == [f"{first + timedelta(days=number):%Y-%m-%d}" for number in range(len(dates))], (
                name
            )
            assert all(a.next_begins == b.begins for a, b in itertools.pairwise(slots))


def test_a_cron_expression_and_a_time_of_day_are_the_same_slots():
    for name in (BERLIN, "Australia/Lord_Howe", "America/New_York"):
        for noon in changes_of(name)[:6]:
            by_time = every(("02:30", "23:15"), name, days=("mon", "sat", "sun"))
            by_cron = ScheduleSpec(cron="30 2 * * 0,1,6", time_zone=name)
            found = [slot.begins for slot in between(by_time, noon - 8 * DAY, noon + 8 * DAY)]
            cron = [slot.begins for slot in between(by_cron, noon - 8 * DAY, noon + 8 * DAY)]
            assert set(cron) <= set(found)
            assert len(found) == 2 * len(cron) or abs(len(found) - 2 * len(cron)) == 1


def test_the_latest_and_the_following_slot_agree_at_every_moment():
    chance = random.Random(1)
    for name in chance.sample(zones_that_differ(), 40):
        schedule = every(("00:30", "02:30"), name, window="2h")
        places = [*changes_of(name)[:2], chance.uniform(BEGIN, END)]
        for at in (place + chance.uniform(-DAY, DAY) for place in places for _ in range(5)):
            now, coming = latest(schedule, at), following(schedule, at)
            assert now.begins <= at < coming.begins
            assert (now.next_begins, following(schedule, now.begins)) == (coming.begins, coming)
            assert latest(schedule, coming.begins) == coming
            assert now.begins < now.ends <= now.next_begins


def test_a_weekly_and_a_rare_schedule_find_their_slots():
    weekly = every(days=("sun",))
    assert latest(weekly, moment("2026-11-28T12:00")).name == "2026-11-22T0100"
    rare = ScheduleSpec(cron="0 1 29 2 *")
    assert following(rare, moment("2026-11-28T12:00")).name == "2028-02-29T0100"
    assert latest(rare, moment("2026-11-28T12:00")).name == "2024-02-29T0100"


@pytest.mark.parametrize(
    "wrong",
    [
        {}, {"at": "1:00"}, {"at": "24:00"}, {"at": 90}, {"at": "01:00", "cron": "0 1 * * *"}, {"cron": "0 1 * *"},
        {"cron": "0 1 30 2 *"}, {"cron": "@daily"}, {"cron": "0 25 * * *"}, {"cron": "0 1 * * *", "days": ["mon"]},
        {"at": "01:00", "time_zone": "Mars/Olympus"}, {"at": "01:00", "time_zone": "../etc/passwd"},
        {"at": "01:00", "window": "5 hours"}, {"at": "01:00", "window": 0}, {"at": "01:00", "days": []},
        {"at": "01:00", "days": ["monday"]}, {"at": "01:00", "budget_hours": 0}, {"at": "01:00", "catch_up": "all"},
    ],
)  # fmt: skip
def test_what_is_no_schedule_is_refused(wrong):
    with pytest.raises(ValidationError):
        ScheduleSpec.model_validate(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {}, {"url": "http://example.org/x"}, {"url": "https://me:pw@example.org"}, {"url": "file:///etc/passwd"},
        {"url": "https://"}, {"url": "https://a b/"}, {"url": "https://[::1"}, {"url": "https://x", "url_env": "X"},
        {"kind": "apprise", "url": "https://x"}, {"kind": "apprise", "url_env": "X", "secret_env": "Y"},
        {"url_env": "lower case"}, {"url": "https://x", "when": "never"}, {"url": "http://127.0.0.1.example.org/"},
        {"url": "https://example.org:99999/"},
    ],
)  # fmt: skip
def test_what_cannot_be_told_safely_is_refused(wrong):
    with pytest.raises(ValidationError):
        NotifySpec.model_validate(wrong)


def test_a_webhook_is_https_or_this_machine():
    for url in (
        "https://hooks.example.org/x?y=1",
        "http://127.0.0.1:9/x",
        "http://[::1]/",
        "http://localhost/",
    ):
        assert NotifySpec(url=url).url == url


# What triggers find


def test_a_trigger_runs_waits_finds_it_done_or_comes_too_late():
    schedule = every(window="5h")
    one = moment("2026-11-22T01:00")
    assert due(schedule, one, ()).duty is Duty.RUN
    assert due(schedule, one, ()).until == one + 5 * 3600
    assert due(schedule, one - EARLY_SECONDS, ("2026-11-21T0100",)).duty is Duty.WAIT
    assert due(schedule, one - EARLY_SECONDS - 1, ("2026-11-21T0100",)).duty is Duty.DONE
    assert due(schedule, one + 5 * 3600 - 1, ()).duty is Duty.RUN
    late = due(schedule, one + 5 * 3600, ())
    assert late.duty is Duty.MISSED
    assert "the next one does its work" in late.reason
    assert due(schedule, one, ("2026-11-22T0100",)).duty is Duty.DONE


def test_a_slot_that_was_missed_is_caught_up_once_however_many_were():
    schedule = every(window="5h", catch_up="one")
    at = moment("2026-11-22T09:00")
    found = due(schedule, at, ("2026-11-18T0100",))
    assert (found.duty, found.slot.name, found.until) == (Duty.RUN, "2026-11-22T0100", at + 5 * 3600)
    assert found.missed == ("2026-11-19T0100", "2026-11-20T0100", "2026-11-21T0100")
    assert due(schedule, at, ("2026-11-18T0100", found.slot.name)).duty is Duty.DONE
    late = moment("2026-11-22T23:00")
    assert due(schedule, late, ()).until == moment("2026-11-23T01:00"), "the next night comes first"


def test_without_a_window_a_late_trigger_always_catches_up():
    found = due(every(), moment("2026-11-22T23:00"), ())
    assert (found.duty, found.until) == (Duty.RUN, moment("2026-11-23T01:00"))


def test_a_night_that_never_comes_to_its_end_is_given_up():
    schedule = every(tries=2)
    at = moment("2026-11-22T02:00")
    assert due(schedule, at, (), ("1",)).duty is Duty.RUN
    assert "try 2" in due(schedule, at, (), ("1",)).reason
    assert due(schedule, at, (), ("1", "2")).duty is Duty.GIVEN_UP


def test_what_sent_a_night_away_does_not_count_while_the_window_is_open():
    schedule = every(tries=2, window="5h")
    inside, after = moment("2026-11-22T05:00"), moment("2026-11-22T06:00")
    many = tuple(map(str, range(9)))
    assert due(schedule, inside, (), many, 8).duty is Duty.RUN
    assert due(schedule, inside, (), many, 7).duty is Duty.GIVEN_UP
    over = due(schedule, after, (), many, 9)
    assert (over.duty, over.slot.name) == (Duty.GIVEN_UP, "2026-11-22T0100")
    assert "the window of slot 2026-11-22T0100 has passed" in over.reason


def test_a_month_without_power_is_reported_night_by_night():
    found = due(every(), moment("2026-11-22T01:05"), ("2026-10-22T0100",))
    assert len(found.missed) == 30
    assert found.missed[0] == "2026-10-23T0100"


def play(zone_name, begin, end, chance):
    """Triggers come 0, 1 or 2 times a slot, at once or late; what was run, and which slots were told as missed."""
    schedule = every("02:30", zone_name, window="3h", catch_up=chance.choice(["none", "one"]))
    closed, ran, told, fired = [], [], [], []
    for slot in between(schedule, begin, end):
        times = chance.choice([0, 1, 2])
        late = [chance.choice([0.0, 1.0, chance.uniform(0, 3 * 3600 - 1)]) for _ in range(times)]
        fired.append((slot.name, times))
        for delay in sorted(late):
            found = due(schedule, slot.begins + delay, closed[-40:])
            assert found.duty in (Duty.RUN, Duty.DONE), (zone_name, slot, found)
            if found.duty is Duty.RUN:
                assert found.slot == slot
                assert found.until <= slot.next_begins
                ran.append(slot.name)
                told.extend(found.missed)
                closed.append(slot.name)
    return fired, ran, told


def check(fired, ran, told):
    assert ran == [name for name, times in fired if times], "once each, whatever the number of triggers"
    first, last = ran[0], ran[-1]
    assert told == [name for name, times in fired if not times and first < name < last], (
        "each missed one once"
    )


def test_whatever_the_triggers_do_each_night_is_once_in_every_zone_around_each_change():
    chance = random.Random(2)
    nights = 0
    for name in zones_that_differ():
        noons = changes_of(name)
        for noon in chance.sample(noons, min(3, len(noons))) or [chance.uniform(BEGIN, END)]:
            fired, ran, told = play(name, noon - 4 * DAY, noon + 4 * DAY, chance)
            if ran:
                check(fired, ran, told)
            nights += len(fired)
    assert nights > 3000


@pytest.mark.soak
def test_ten_years_in_every_zone():
    chance = random.Random(3)
    nights = 0
    for name in sorted(available_timezones()):
        fired, ran, told = play(name, BEGIN, END, chance)
        check(fired, ran, told)
        nights += len(fired)
    print(f"{nights:,} nights")
    assert nights > 2_000_000

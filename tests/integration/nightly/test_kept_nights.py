"""What nights leave in a store: every damage of it is named, and what no later night looks at goes when it is asked for."""

from __future__ import annotations

import json
import random

import pytest
from cases.nights import DAY, ONE, Ended, Runs, watch

from orchestrator.care.collection import mark, sweep_away, sweeping
from orchestrator.care.garbage import Kind, Limits
from orchestrator.care.verification import verify
from orchestrator.controller import Signals
from orchestrator.nights import nightrecords
from orchestrator.nights.nightly import EXIT_INTERRUPTED, nightly

NIGHTS = ("2026-11-20T0100", "2026-11-21T0100", "2026-11-22T0100")


@pytest.fixture
def kept(store):
    """A store after three nights; each object is as old as its night."""
    for number in (2, 1, 0):
        at = ONE - number * DAY
        store.now = lambda at=at: at
        assert nightly(watch(store, at=at), Runs(), Signals()).exit_code == 0
    return store


def found(store, **limits):
    return [
        (one.thing.kind, one.thing.name)
        for one in mark(store, None, Limits(at=ONE + 40 * DAY, **limits)).doomed
    ]


def test_three_sound_nights_are_read_whole(kept):
    done = verify(kept)
    assert (done.damages, done.foreign) == ([], [])
    assert done.counts["night"] == sum(key.startswith("nights/") for key in kept.objects) == 3 * 6


def test_any_flipped_bit_of_a_night_is_found_and_its_object_named(kept):
    draw = random.Random(3)
    for key in [key for key in kept.objects if key.startswith("nights/")]:
        whole = kept.objects[key]
        for _ in range(15):
            place = draw.randrange(len(whole))
            kept.objects[key] = flipped = (
                whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :]
            )
            names = {damage.subject for damage in verify(kept).damages}
            if key not in names:
                is_try = "/tries/" in key
                assert (
                    isinstance(json.loads(flipped), dict)
                    if is_try
                    else json.loads(flipped) == json.loads(whole)
                )
        kept.objects[key] = whole


def test_a_lost_report_is_named_once_and_one_that_was_taken_away_whole_is_not(kept):
    kept.delete(f"nights/demo/reports/{NIGHTS[0]}/report.md")
    (damage,) = verify(kept).damages
    assert damage.subject.endswith(f"{NIGHTS[0]}/report.md")
    for key in [key for key in kept.objects if f"reports/{NIGHTS[0]}/" in key]:
        kept.delete(key)
    assert verify(kept).damages == []
    for key in [key for key in kept.objects if f"reports/{NIGHTS[2]}/" in key]:
        kept.delete(key)
    assert len(verify(kept).damages) == 4, "the last night's report is never taken away"


def test_a_record_in_the_place_of_another_night_is_named(kept):
    key = f"nights/demo/closed/{NIGHTS[1]}.json"
    kept.put(key, kept.get(f"nights/demo/closed/{NIGHTS[0]}.json"))
    assert f"it is of night {NIGHTS[0]}" in next(
        one.problem for one in verify(kept).damages if one.subject == key
    )


@pytest.mark.parametrize(
    "key",
    ["nights/x", "nights/demo/closed/2026.json", f"nights/demo/reports/{NIGHTS[0]}/a/b", "nights/a/b/c.json"],
)
def test_what_no_night_left_is_foreign_and_stays(kept, key):
    kept.put(key, b"{}")
    done = verify(kept)
    assert (done.foreign, done.damages) == ([key], [])
    assert all(
        key not in one.thing.keys
        for one in mark(kept, None, Limits(at=ONE + 99 * DAY, runs_older_than=DAY)).doomed
    )


def test_reports_of_nights_go_only_if_asked_and_never_the_one_with_which_the_next_is_compared(kept):
    assert found(kept) == []
    assert found(kept, runs_older_than=50 * DAY) == []
    assert found(kept, runs_older_than=20 * DAY) == [(Kind.NIGHT, f"demo/{slot}") for slot in NIGHTS[:2]]
    with sweeping(kept) as right:
        swept = sweep_away(right, mark(kept, None, Limits(at=ONE + 40 * DAY, runs_older_than=20 * DAY)))
    assert len(swept.removed) == 2
    assert verify(kept).damages == []
    assert nightrecords.closed_slots(kept, "demo") == NIGHTS
    assert nightrecords.last_standing(kept, "demo")[0] is not None


def test_what_stood_last_stays_when_later_nights_never_came_to_look(kept):
    for slot in NIGHTS[1:]:
        kept.delete(f"nights/demo/reports/{slot}/{nightrecords.STANDING}")
    assert found(kept, runs_older_than=20 * DAY) == [(Kind.NIGHT, f"demo/{NIGHTS[1]}")]


def test_a_night_that_never_ended_goes_once_a_later_one_did(store):
    store.now = lambda: ONE - DAY
    nightly(watch(store, at=ONE - DAY), Runs(Ended(exit_code=EXIT_INTERRUPTED)), Signals())
    assert found(store) == [], "it may go on yet"
    store.now = lambda: ONE
    nightly(watch(store), Runs(), Signals())
    assert found(store) == [(Kind.HALF_NIGHT, f"demo/{NIGHTS[1]}")]
    assert verify(store).damages == []

"""Virtual time: events in their order, and pauses in which all others go on."""

from __future__ import annotations

import random

import pytest

from orchestrator.simulation.clock import Timeline


@pytest.fixture
def timeline():
    return Timeline()


def drained(timeline):
    while timeline.step():
        pass


@pytest.mark.parametrize("seed", range(10))
def test_events_happen_in_the_order_of_their_times(timeline, seed):
    rng, seen = random.Random(seed), []
    for _ in range(50):
        at = rng.uniform(0, 100)
        timeline.after(at, lambda at=at: seen.append((at, timeline.now())))
    drained(timeline)
    assert seen == sorted(seen)
    assert all(asked == pytest.approx(happened) for asked, happened in seen)


def test_events_of_one_moment_happen_as_they_were_set_down(timeline):
    seen = []
    for number in range(5):
        timeline.after(1.0, lambda number=number: seen.append(number))
    drained(timeline)
    assert seen == [0, 1, 2, 3, 4]


def test_what_an_event_sets_down_happens_after_it(timeline):
    seen = []
    timeline.after(1.0, lambda: timeline.after(1.0, lambda: seen.append(timeline.now())))
    drained(timeline)
    assert seen == [2.0]


def test_nothing_happens_before_its_time(timeline):
    timeline.after(5.0, lambda: None)
    assert not timeline.step(until=4.9)
    assert timeline.now() == 0.0
    assert timeline.step(until=5.0)
    assert not timeline.step()


def test_the_past_is_now(timeline):
    timeline.after(-3.0, lambda: None)
    drained(timeline)
    assert timeline.now() == 0.0


def test_others_go_on_while_one_sleeps(timeline):
    seen = []
    timeline.after(1.0, lambda: seen.append("during"))
    timeline.after(9.0, lambda: seen.append("after"))
    timeline.sleep(5.0)
    assert seen == ["during"]
    assert timeline.now() == 5.0
    drained(timeline)
    assert seen == ["during", "after"]


def test_who_sleeps_within_anothers_sleep_wakes_no_earlier_than_asked(timeline):
    woken = {}

    def sleeper(name, seconds):
        timeline.sleep(seconds)
        woken[name] = timeline.now()

    timeline.after(1.0, lambda: sleeper("inner", 10.0))
    sleeper("outer", 5.0)
    assert woken == {"inner": 11.0, "outer": 11.0}

"""A lookout tells what it last saw, for how long it has seen nothing, and is never kept by a look that does not return."""

from __future__ import annotations

import threading
import time

import pytest

from orchestrator.backends.lookout import Lookout

OFTEN = 0.001
LONG = 60.0


@pytest.fixture
def make_lookout():
    """`make_lookout(look)` has begun; all are ended afterwards."""
    begun = []

    def make(look):
        lookout = Lookout(look, OFTEN)
        lookout.begin()
        begun.append(lookout)
        return lookout

    yield make
    for lookout in begun:
        lookout.end()


def until(holds):
    deadline = time.monotonic() + LONG
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(OFTEN)


def test_the_first_sight_is_waited_for(make_lookout):
    gate = threading.Event()
    lookout = make_lookout(lambda: gate.wait(LONG) and "land")
    threading.Timer(0.05, gate.set).start()
    assert lookout.last(LONG) == "land"


def test_it_looks_again_and_again(make_lookout):
    sights = iter(range(1_000_000))
    lookout = make_lookout(lambda: next(sights))
    first = lookout.last(LONG)
    until(lambda: lookout.last(LONG) > first)
    assert lookout.silence() < LONG


def test_a_look_that_never_comes_back_ends_in_silence(make_lookout):
    gate, looks = threading.Event(), []

    def look():
        looks.append(len(looks))
        return looks[-1] if len(looks) < 3 else gate.wait(LONG)

    lookout = make_lookout(look)
    until(lambda: len(looks) == 3)
    assert lookout.last(LONG) == 1, "an old sight is better than none"
    until(lambda: lookout.silence() > 0.05)
    assert lookout.last(0.05) is None, "but not for ever"
    began = time.monotonic()
    lookout.end()
    assert time.monotonic() - began < LONG / 2
    gate.set()


def test_before_any_sight_patience_ends_too(make_lookout):
    gate = threading.Event()
    lookout = make_lookout(lambda: gate.wait(LONG))
    assert lookout.last(0.02) is None
    gate.set()


def test_a_look_that_fails_has_seen_nothing_and_says_why_until_the_next_one_succeeds(make_lookout):
    broken = threading.Event()
    broken.set()

    def look():
        if broken.is_set():
            raise ConnectionError("no route to the head")
        return "land"

    lookout = make_lookout(look)
    until(lambda: lookout.problem)
    assert lookout.problem == "ConnectionError: no route to the head"
    assert lookout.last(0.02) is None
    broken.clear()
    assert lookout.last(LONG) == "land"
    until(lambda: not lookout.problem)


def test_after_its_end_it_looks_no_more(make_lookout):
    looks = []
    lookout = make_lookout(lambda: looks.append(1))
    until(lambda: looks)
    lookout.end()
    count = len(looks)
    assert not lookout.thread.is_alive()
    assert len(looks) == count

"""A run that is over waits for whoever scrapes it to see its end, and for nobody else."""

from __future__ import annotations

import threading
import time
import urllib.request

import pytest

from orchestrator.schedule.costs import Costs
from orchestrator.watching.last_scrape import LONGEST_WAIT_SECONDS, SLACK_SECONDS, Scrapes
from orchestrator.watching.run_metrics import RunMetrics


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def application(environ, start_response):
    return [b"up 1"]


def never():
    return False


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def scrapes(clock):
    return Scrapes(application, 9465, clock)


def scrape(scrapes, clock, at):
    clock.now = at
    assert b"".join(scrapes({}, None)) == b"up 1"


def test_nobody_is_waited_for_where_nobody_scrapes(scrapes):
    assert scrapes.patience() == 0
    assert not scrapes.wait_for_one_more(never)


@pytest.mark.parametrize(
    ("at", "patience"),
    [
        ([115.0], 2 * 15 + SLACK_SECONDS),
        ([101.0, 116.0, 131.0], 2 * 15 + SLACK_SECONDS),
        ([110.0, 120.0, 121.0], 2 * 10 + SLACK_SECONDS),
        ([100.0], SLACK_SECONDS),
        ([101.0, 1000.0], LONGEST_WAIT_SECONDS),
    ],
)
def test_patience_is_twice_the_longest_gap_that_was_seen_and_bounded(scrapes, clock, at, patience):
    for one in at:
        scrape(scrapes, clock, one)
    assert scrapes.patience() == patience


def test_a_scrape_that_began_before_the_end_has_not_seen_it(clock):
    def slow(environ, start_response):
        clock.now += 10
        return [b""]

    scrapes = Scrapes(slow, 9465, clock)
    list(scrapes({}, None))
    assert scrapes.last == 100.0


def test_an_answer_counts_when_it_has_left(scrapes, clock):
    answer = scrapes({}, None)
    clock.now = 105.0
    next(answer)
    assert scrapes.patience() == 0
    assert list(answer) == []
    assert scrapes.patience() > 0


def test_the_wait_ends_by_a_scrape_by_patience_or_by_a_signal(scrapes, clock, monkeypatch):
    scrape(scrapes, clock, 101.0)
    clock.now = 102.0

    def slept(seconds, *, after=None):
        clock.now += seconds
        if after is not None and clock.now > after:
            list(scrapes({}, None))

    monkeypatch.setattr(time, "sleep", slept)
    assert not scrapes.wait_for_one_more(never)
    assert clock.now == pytest.approx(102 + 2 + SLACK_SECONDS, abs=0.1)
    assert not scrapes.wait_for_one_more(lambda: clock.now > 110)
    assert clock.now == pytest.approx(110, abs=0.1)
    monkeypatch.setattr(time, "sleep", lambda seconds: slept(seconds, after=111))
    assert scrapes.wait_for_one_more(never)
    assert clock.now == pytest.approx(111, abs=0.1)


def test_the_end_of_a_run_reaches_whoever_scrapes_it(make_pool):
    metrics = RunMetrics({"cpu": make_pool()}, Costs())
    answers = []

    def scraped():
        with urllib.request.urlopen(f"http://127.0.0.1:{scrapes.port}/metrics", timeout=10) as answer:
            answers.append(answer.read().decode())

    with metrics.served(0) as scrapes:
        scraped()
        later = threading.Timer(0.3, scraped)
        later.start()
        metrics.closed(4, 50.0)
        assert scrapes.wait_for_one_more(never)
        later.join()
    assert ["prunefleet_run_exit_code 4.0" in answer for answer in answers] == [False, True]

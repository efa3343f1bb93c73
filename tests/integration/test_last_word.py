"""Which controller closes a run that several work on: the last one, once, and another if that one is lost."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from orchestrator import leases, runs
from orchestrator.clusters.runboard import MISSED, Board
from orchestrator.controller import Signals, SystemClock
from orchestrator.lastword import last_word
from orchestrator.nights import heartbeat
from orchestrator.simulation.store import Flaw, MemoryStore
from orchestrator.stores.local import LocalStore

RUNNING = {"state": "running", "slots": 2, "load": 1.0, "begun": []}


@dataclass
class Clock:
    """Moves when somebody sleeps, and then lets `meanwhile` happen."""

    at: float = 1000.0
    meanwhile: object = None

    def now(self):
        return self.at

    def sleep(self, seconds):
        self.at += seconds
        assert self.at < 5000.0, "it waits for ever"
        if self.meanwhile:
            self.meanwhile(self.at)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(clock):
    return MemoryStore(now=clock.now)


def boards(store, *names):
    made = [Board(store, "r", name, threads=1) for name in names]
    for board in made:
        board.beat(RUNNING)
    return made


def close(store, outcome="done", by="x"):
    store.put(runs.closed_key("r"), json.dumps({"outcome": outcome, "by": by}).encode())


def asks(board, clock, drain="", before=""):
    """Whether it is this one's to close; if so, it does."""
    with last_word(board, clock, Signals(drain=drain), before) as is_ours:
        if is_ours and board:
            close(board.store, by=board.owner)
        return is_ours


def test_a_controller_that_is_alone_closes(store, clock):
    assert asks(None, clock)
    (one,) = boards(store, "one")
    assert asks(one, clock)
    assert clock.at == 1000.0, "nobody is waited for"
    assert leases.holder(store, "close-r").owner == leases.NOBODY


def test_who_ends_first_waits_and_leaves_when_the_last_one_has_closed(store, clock):
    one, two = boards(store, "one", "two")

    def meanwhile(at):
        two.beat(RUNNING if at < 1030 else {**RUNNING, "state": "ended"})
        if at >= 1030:
            close(store, by=two.owner)

    clock.meanwhile = meanwhile
    assert not asks(one, clock)
    assert 1030 <= clock.at < 1035


def test_who_was_told_to_stop_leaves_at_once_while_others_go_on_and_closes_if_none_does(store, clock):
    one, two = boards(store, "one", "two")
    assert not asks(one, clock, drain="cancelled")
    assert asks(two, clock, drain="cancelled")
    assert clock.at == 1000.0


def test_a_peer_that_is_lost_is_waited_for_as_long_as_it_may_live(store, clock):
    one, _ = boards(store, "one", "two")
    assert asks(one, clock)
    assert MISSED * one.heartbeat_seconds <= clock.at - 1000.0 <= MISSED * one.heartbeat_seconds + 2


def test_who_dies_while_it_closes_is_followed_by_another(store, clock):
    one, two = boards(store, "one", "two")
    two.beat({**RUNNING, "state": "ended"})
    assert leases.acquire(store, "close-r", two.owner, clock.now(), heartbeat.LEASE_SECONDS)
    assert asks(one, clock)
    assert clock.at - 1000.0 >= heartbeat.LEASE_SECONDS


def test_a_life_that_was_followed_by_another_of_the_same_cluster_leaves(store, clock):
    one, again = (Board(store, "r", "one", threads=1) for _ in range(2))
    one.beat(RUNNING)
    again.beat(RUNNING)
    assert not asks(one, clock)
    assert asks(again, clock)


def test_an_earlier_closing_of_a_run_that_goes_on_counts_for_nothing(store, clock):
    close(store, "interrupted")
    (one,) = boards(store, "one")
    before = runs.closing(store, "r")
    assert not runs.has_ended(store, "r")
    assert asks(one, clock, before=before)
    assert runs.closing(store, "r") != before
    assert runs.has_ended(store, "r")


def test_of_many_that_end_at_once_exactly_one_closes(tmp_path):
    store = LocalStore(tmp_path)
    for number in range(8):
        made = [
            Board(store, f"r{number}", f"c{index}", heartbeat_seconds=0.02, threads=1) for index in range(4)
        ]
        for board in made:
            board.beat(RUNNING)
        barrier = threading.Barrier(4)

        def end(board, barrier=barrier):
            barrier.wait()
            board.beat({**RUNNING, "state": "ended"})
            with last_word(board, SystemClock(), Signals(), "") as is_ours:
                if is_ours:
                    store.put(runs.closed_key(board.run_id), board.owner.encode())
                return is_ours

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(end, made)) == 1


def test_without_conditional_writes_each_closes_which_is_the_same_twice(clock):
    store = MemoryStore(now=clock.now, flaws=(Flaw.IGNORES_IF_MATCH,))
    one, two = boards(store, "one", "two")
    for board in (one, two):
        board.beat({**RUNNING, "state": "ended"})
    assert [asks(one, clock), asks(two, clock, before=runs.closing(store, "r"))] == [True, True]


@pytest.mark.parametrize(
    ("record", "has_ended"),
    [
        (None, False), (b'{"outcome": "done"}', True), (b'{"outcome": "blocked"}', True), (b'{"outcome": "incomplete"}', True),
        (b'{"outcome": "interrupted"}', False), (b'{"outcome": "carried over"}', False), (b'{"outcome": "stopped"}', False),
        (b"{", True), (b"[]", True),
    ],
)  # fmt: skip
def test_a_run_has_ended_unless_it_left_work_with_which_it_can_go_on(store, record, has_ended):
    if record is not None:
        store.put(runs.closed_key("r"), record)
    assert runs.has_ended(store, "r") == has_ended

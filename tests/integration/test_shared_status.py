"""One status for a run that several clusters share: how it began stays, and what any of them says is of the whole."""

from __future__ import annotations

import json

import pytest
from cases.backends import Wrong
from cases.fleets import surveyed_half

from orchestrator import runs
from orchestrator.clusters.runboard import Board, number_at
from orchestrator.clusters.sharing import Share
from orchestrator.controller import Signals
from orchestrator.execution import RunOptions, execute

RUN = "20260101T000000Z-abcdef"


class Watched(Wrong):
    """Reads the run's status whenever it is given something."""

    def __init__(self, store):
        super().__init__()
        self.store, self.seen = store, []

    def submit(self, assignment):
        self.seen.append(runs.read_status(self.store, RUN))
        super().submit(assignment)


@pytest.fixture
def seen(tmp_path, tiny_model, tiny_data):
    return surveyed_half(tmp_path, tiny_model, tiny_data)


@pytest.fixture
def work(seen, tmp_path):
    """Carries out the part of cluster `one`; what ran, and how it ended."""

    def work():
        share = Share(board=Board(seen.store, RUN, "one", 0.1), pools={"one": ["cpu"], "two": ["gpu"]})
        backend = Watched(seen.store)
        options = RunOptions(cache_root=str(tmp_path / "cache"))
        return backend, execute(seen, lambda *_: backend, options, Signals(), run_id=RUN, share=share)

    return work


def began(seen, state="running", **more):
    """What the first cluster wrote, when four units more were to do."""
    wanted = len(seen.plan.units)
    opening = {"started_at": 5.0, "done_before": -4, "to_do": wanted + 4, "quarantined": 0}
    told = {"run_id": RUN, "fleet": "demo", "state": state, "wanted": wanted, **opening, **more}
    seen.store.put(runs.status_key(RUN), json.dumps(told).encode())
    seen.store.put(f"runs/{RUN}/plan.parquet", b"the first one's")


def test_who_comes_later_tells_of_the_whole_run_and_leaves_its_plan(seen, work):
    began(seen)
    _, summary = work()
    status = runs.read_status(seen.store, RUN)
    assert status["outcome"] == summary.outcome == "incomplete"
    assert (status["started_at"], status["to_do"], status["done_before"]) == (
        5.0,
        len(seen.plan.todo) + 4,
        -4,
    )
    assert status["units"]["done"] == 4, "what others did before this one planned"
    assert sum(status["units"].values()) == status["to_do"]
    assert seen.store.get(f"runs/{RUN}/plan.parquet") == b"the first one's"
    closed = json.loads(seen.store.get(runs.closed_key(RUN)))
    assert (closed["started_at"], closed["done"]) == (5.0, 4)


@pytest.mark.parametrize("broken", [{"state": "ended"}, {"to_do": "many"}])
def test_a_run_that_has_ended_or_says_nothing_begins_anew(seen, work, broken):
    began(seen, **broken)
    work()
    status = runs.read_status(seen.store, RUN)
    assert status["started_at"] > 5.0
    assert status["to_do"] == sum(status["units"].values()) == len(seen.plan.todo)
    assert seen.store.get(f"runs/{RUN}/plan.parquet") != b"the first one's"


def test_pools_and_units_of_the_others_are_told_too(seen):
    other = Board(seen.store, RUN, "two")
    pools = {"gpu": {"running": 1, "slots": 3}, "cpu": {"running": 9, "slots": 9}, "x": "?"}
    other.beat(
        {"state": "running", "slots": 3, "load": 1.0, "begun": [], "units": {"running": 1}, "pools": pools}
    )
    share = Share(board=Board(seen.store, RUN, "one"), pools={"one": ["cpu"], "two": ["gpu", "tpu"]})
    share.board.beat({})
    share.others = share.board.peers()
    assert share.running_elsewhere == 1
    assert share.pools_elsewhere == {
        "gpu": {"running": 1, "slots": 3}, "tpu": {"running": 0, "slots": 0},
    }  # fmt: skip


@pytest.mark.parametrize("told", [{}, {"a": 3}, {"a": {"b": "3"}}, {"a": {"b": True}}, {"a": [1]}])
def test_what_another_says_wrongly_is_no_number(told):
    assert number_at(told, "a", "b") == 0


def test_who_was_counted_as_lost_writes_nothing_over_a_run_that_is_closed(seen, work, monkeypatch):
    began(seen)
    real = Watched.submit

    def submit(self, assignment):
        if not self.seen:
            seen.store.put(runs.closed_key(RUN), b'{"outcome": "done", "exit_code": 0}')
            seen.store.put(runs.status_key(RUN), b'{"state": "ended", "outcome": "done"}')
        real(self, assignment)

    monkeypatch.setattr(Watched, "submit", submit)
    monkeypatch.setattr("orchestrator.runrecord.STATUS_EVERY_SECONDS", 0.0)
    work()
    assert runs.read_status(seen.store, RUN)["state"] == "ended"
    assert "started_at" not in runs.read_status(seen.store, RUN)

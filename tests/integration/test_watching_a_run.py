"""`status --watch`: a run seen from another terminal, through the store alone, whatever happens to either."""

from __future__ import annotations

import io
import json
from itertools import count

import pytest
from rich.console import Console
from typer.testing import CliRunner

from orchestrator import cli
from orchestrator.commands import console, statuses
from orchestrator.errors import StoreError, UnknownRun
from orchestrator.stores.local import LocalStore

RUN = "20261122T010000Z-abcdef"


def told(done, at, state="running", **more):
    units = {"done": done, "waiting": 4 - done, "failed": 0, "quarantined": 0}
    pools = {"gpu": {"running": 2, "slots": 3}}
    return {"run_id": RUN, "fleet": "demo", "state": state, "updated_at": at, "to_do": 4, "units": units,
            "eta_seconds": 90.0, "pools": pools, **more}  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path)


@pytest.fixture
def watch(store, monkeypatch):
    """Watches a run whose status changes with every wait; what was said. An exception among them is the store's answer."""

    def watched(*steps, terminal=False):
        said = io.StringIO()
        talk = Console(file=said, force_terminal=terminal, width=120, no_color=True)
        for module in (console, statuses):
            monkeypatch.setattr(module, "talk", talk)
        coming, moments = iter(steps), count(0, 40)
        read = store.get

        def put(step):
            monkeypatch.setattr(store, "get", read)
            if isinstance(step, Exception):

                def refuse(key):
                    raise step

                monkeypatch.setattr(store, "get", refuse)
            else:
                store.put(f"runs/{RUN}/status.json", json.dumps(step).encode())

        put(next(coming))
        statuses.follow(
            store, RUN, wait=lambda seconds: put(next(coming)), clock=lambda: float(next(moments))
        )
        assert next(coming, None) is None
        return said.getvalue()

    return watched


def test_it_goes_on_until_the_run_has_ended_and_tells_pools_and_time_left(watch):
    said = watch(told(0, 1.0), told(1, 2.0), told(4, 3.0, "ended"))
    assert "0 of 4 units, 1 min 30 s left; gpu 2/3" in said
    assert "4 of 4 units" in said


def test_on_a_terminal_there_is_a_bar_for_the_units_and_one_for_each_pool(watch):
    said = watch(told(1, 1.0), told(4, 3.0, "ended"), terminal=True)
    assert "units" in said
    assert "4/4" in said
    assert "pool gpu" in said
    assert "2/3" in said


def test_a_store_that_does_not_answer_is_asked_again(watch):
    said = watch(told(0, 1.0), StoreError("no way there"), told(4, 3.0, "ended"))
    assert "the store does not answer, and is asked again: no way there" in said
    assert "4 of 4 units" in said


def test_a_controller_that_is_silent_is_named_once_and_waited_for(watch):
    said = watch(*[told(0, 1.0)] * 5, told(4, 9.0, "ended"))
    assert said.count("no word of its controller for") == 1
    assert "run the same command again" in said


def test_a_status_of_an_older_release_has_no_pools_and_is_shown(watch):
    old = {key: value for key, value in told(0, 1.0).items() if key not in ("pools", "eta_seconds")}
    assert "0 of 4 units, no estimate yet\n" in watch(old, told(4, 3.0, "ended"))


def test_a_run_that_has_ended_is_shown_at_once(watch):
    assert "4 of 4 units" in watch(told(4, 3.0, "ended"))


def test_a_run_that_is_not_there_is_an_error_that_names_what_is(store):
    store.put(f"runs/{RUN}/status.json", json.dumps(told(4, 3.0, "ended")).encode())
    with pytest.raises(UnknownRun, match=RUN):
        statuses.follow(store, "20261122T010000Z-abcdee")


def test_watching_is_not_for_programs(store, tmp_path):
    done = CliRunner().invoke(cli.app, ["status", "--watch", "--json", "--store", str(tmp_path)])
    assert "ask for one of them" in str(done.exception)


@pytest.mark.parametrize(
    ("status", "stands"),
    [
        (told(1, 1_000.0), "running"),
        (told(1, 1_000.0 - 8_340), "silent for 2 h 19 min"),
        (told(1, 1_000.0 + 300), "running"),  # a clock that is ahead of ours
        (told(1, "long ago"), "running"),
        (told(4, 1.0, "ended"), "ended"),
        (told(4, 1.0, "ended", outcome="done"), "done"),
        ({}, ""),
    ],
)
def test_a_run_whose_controller_is_silent_does_not_stand_as_running(status, stands):
    assert statuses.standing(status, 1_000.0) == stands


def test_what_to_do_about_silent_runs_is_told_once_and_not_to_programs(store, tmp_path):
    for run in (RUN, "20261122T020000Z-abcdef"):
        store.put(f"runs/{run}/status.json", json.dumps({**told(1, 1.0), "run_id": run}).encode())
    shown = CliRunner().invoke(cli.app, ["status", "--store", str(tmp_path)])
    assert shown.stdout.count("silent for ") == 2
    assert shown.stderr.count("if it is dead, the same command goes on") == 1
    for_programs = CliRunner().invoke(cli.app, ["status", "--json", "--store", str(tmp_path)])
    assert {run["state"] for run in json.loads(for_programs.stdout)} == {"running"}
    assert "silent" not in for_programs.output

"""How runs end when something is wrong: the record says so, and what no work hangs on ends nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cases.backends import Wrong
from cases.commands import typed
from cases.fleets import surveyed_half

from orchestrator import quarantine, runs, survey
from orchestrator.backends.opening import choose_backend
from orchestrator.clusters import runboard
from orchestrator.controller import Signals
from orchestrator.datafiles import share_data
from orchestrator.errors import DataChanged, NotPermitted, Unreachable
from orchestrator.execution import RunOptions, execute
from orchestrator.reports.reporting import table_rows
from orchestrator.scanning import memory_key
from orchestrator.stores.local import LocalStore
from orchestrator.tables.delta import BatchTable
from orchestrator.tables.folding import rebuild
from orchestrator.worker import data_key

RUN = "20260101T000000Z-abcdef"


@pytest.fixture
def seen(tmp_path, tiny_model, tiny_data):
    return surveyed_half(tmp_path, tiny_model, tiny_data)


@pytest.fixture
def carry_out(seen, tmp_path):
    """Carries the plan out in child processes, or with another backend."""

    def carry_out(connect=None):
        options = RunOptions(cache_root=str(tmp_path / "cache"))
        return execute(seen, connect or choose_backend("local", None), options, Signals(), run_id=RUN)

    return carry_out


@pytest.fixture
def refuse(monkeypatch):
    """Lets a method of stores raise for the keys that end or begin so."""

    def refuse(method, part, error):
        real = getattr(LocalStore, method)

        def refusing(self, key, *more, **named):
            if part in key:
                raise error
            return real(self, key, *more, **named)

        monkeypatch.setattr(LocalStore, method, refusing)

    return refuse


@pytest.mark.parametrize(
    ("error", "exit_code"), [(Unreachable("no head at 10.0.0.5"), 69), (KeyError("a bug"), 1)]
)
def test_a_run_that_dies_says_so(seen, carry_out, error, exit_code):
    def connect(*_):
        raise error

    with pytest.raises(type(error)):
        carry_out(connect)
    status = runs.read_status(seen.store, RUN)
    assert (status["state"], status["outcome"], status["exit_code"]) == ("ended", "died", exit_code)
    assert str(error.args[0]) in status["stop_reason"]
    assert status["finished_at"] >= status["started_at"]
    assert not runs.has_ended(seen.store, RUN), "another go may finish it"


@pytest.mark.parametrize("error", [Unreachable("away"), NotPermitted("not you")], ids=["away", "denied"])
@pytest.mark.parametrize(
    ("method", "part"), [("delete", "underway/"), ("list", "underway/"), ("put", survey.COSTS_KEY)]
)
def test_what_no_work_hangs_on_ends_no_run(seen, carry_out, refuse, method, part, error):
    refuse(method, part, error)
    summary = carry_out()
    assert (summary.outcome, summary.counts["done"]) == ("done", len(seen.plan.todo))


@pytest.mark.parametrize("part", ["/attempts/", "quarantine/"])
def test_records_that_the_store_refuses_end_no_run_and_are_told(seen, carry_out, refuse, part):
    refuse("put_if_absent", part, NotPermitted("not you"))
    summary = carry_out(lambda *_: Wrong())
    assert (summary.outcome, summary.exit_code) == ("incomplete", 4)
    (notice,) = summary.notices
    assert "not you" in notice
    assert "are not in the store" in notice
    assert runs.read_status(seen.store, RUN)["notices"] == [notice]
    assert notice in runs.read_report(seen.store, RUN, "report.html").decode()
    shown = typed(Path(seen.fleet.store.url), "status", RUN, "--store", seen.fleet.store.url)
    assert "not you" in " ".join((shown.stdout + shown.stderr).split())


def test_tables_that_cannot_be_folded_into_end_no_run_and_the_next_one_mends_them(
    seen, carry_out, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(BatchTable, "write", _raise(Unreachable("the tables are away")))
        summary = carry_out()
    assert summary.counts["done"] == len(seen.plan.todo)
    assert (summary.outcome, summary.exit_code, summary.verdicts) == ("incomplete", 69, {})
    (notice,) = summary.notices
    assert "the tables are away" in notice
    assert "prunefleet rebuild" in notice
    assert runs.read_status(seen.store, RUN)["notices"] == [notice]
    assert "the tables are away" in runs.read_report(seen.store, RUN, "report.html").decode()
    again = survey.survey(*survey.read_fleet(tmp_path / "fleet.yaml"), 2.0)
    assert again.plan.todo == ()
    mended = execute(again, _raise(AssertionError("nothing is to do")), RunOptions(cache_root=""), Signals())
    assert (mended.exit_code, mended.notices) == (0, ())
    assert {row["unit_key"] for row in table_rows(seen.store, "units", again.plan.units)} == set(
        seen.plan.todo
    )


def test_a_table_that_is_broken_ends_no_run_and_is_made_anew(seen, carry_out, tmp_path):
    log = "tables/units/_delta_log/00000000000000000000.json"
    seen.store.put(log, b"no table at all")
    summary = carry_out(lambda *_: Wrong())
    assert (summary.outcome, summary.exit_code) == ("incomplete", 4), "units that failed are told first"
    assert "tables/units" in summary.notices[0]
    again = survey.survey(*survey.read_fleet(tmp_path / "fleet.yaml"), 2.0)
    quarantine.lift(seen.store, again.plan.quarantined)
    rebuild(seen.store)
    assert carry_out().exit_code == 0


def test_what_fits_no_node_of_the_cluster_is_told_and_not_waited_for(seen, tmp_path):
    pools = {"cpu": replace(seen.pools["cpu"], memory_bytes=2**40)}
    roomy = replace(seen, pools=pools)
    options = RunOptions(cache_root=str(tmp_path / "cache"))
    backend = Wrong({"cpu": 2**20})
    summary = execute(roomy, lambda *_: backend, options, Signals(), run_id=RUN)
    assert (summary.outcome, summary.exit_code) == ("incomplete", 4)
    assert summary.counts["failed"] == len(seen.plan.todo)
    assert runs.read_status(seen.store, RUN)["impossible"] > 0
    assert "the largest node of pool 'cpu' has 0.0 GiB" in summary.told.failures[0]["error"]


def _raise(error):
    def raising(*_, **__):
        raise error

    return raising


def test_a_status_that_cannot_be_written_meanwhile_ends_no_run(seen, carry_out, monkeypatch):
    real, refused = LocalStore.put, []

    def put(self, key, data):
        if key.endswith("status.json") and json.loads(data)["state"] == "running" and self.stat(key):
            refused.append(key)
            raise Unreachable("away")
        return real(self, key, data)

    monkeypatch.setattr(LocalStore, "put", put)
    assert carry_out().outcome == "done"
    assert refused
    assert runs.read_status(seen.store, RUN)["state"] == "ended"


def test_what_was_learnt_meanwhile_by_others_stays(seen, carry_out):
    before = {"prune|elsewhere": [5.0, 1.5]}

    def connect(pools, body):
        seen.store.put(survey.COSTS_KEY, json.dumps(before).encode())  # another run ends
        return choose_backend("local", None)(pools, body)

    carry_out(connect)
    learnt = json.loads(seen.store.get(survey.COSTS_KEY))
    assert learnt["prune|elsewhere"] == [5.0, 1.5]
    assert "prune|cpu" in learnt


def test_a_data_set_that_is_written_to_meanwhile_is_not_kept_under_its_old_name(seen, tmp_path):
    refs = [unit.step.data for unit in seen.plan.units.values() if unit.step.data]
    path = tmp_path / "data" / "arrays.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole + b"more")
    with pytest.raises(DataChanged, match=r"arrays\.parquet was written to"):
        share_data(seen.store, refs)
    assert seen.store.stat(data_key(refs[0].digest)) is None
    path.write_bytes(whole)
    share_data(seen.store, refs)
    assert seen.store.get(data_key(refs[0].digest)) == whole


def test_whoever_may_only_read_the_store_can_plan(seen, tmp_path, refuse):
    seen.store.delete(memory_key("zoo"))
    refuse("put", memory_key("zoo"), NotPermitted("read only"))
    again = survey.survey(*survey.read_fleet(tmp_path / "fleet.yaml"), 2.0)
    assert again.plan.todo == seen.plan.todo
    assert any("registry zoo is read again next time" in warning for warning in again.warnings)


def test_a_store_that_is_away_is_not_taken_for_a_registry(tmp_path, seen, refuse):
    refuse("get", memory_key("zoo"), Unreachable("the store is away"))
    with pytest.raises(Unreachable, match="the store is away"):
        survey.survey(*survey.read_fleet(tmp_path / "fleet.yaml"), 2.0)


def test_only_the_clusters_that_are_submitted_to_may_go_on(local_store):
    runboard.ask_to_stop(local_store, "r", "enough")
    runboard.lift_stop(local_store, "r", ["cpu"], ["gpu"])
    assert local_store.stat(runboard.stop_key("r")) is None
    assert local_store.stat(runboard.stop_key("r", "cpu")) is None
    assert runboard.read_object(local_store, runboard.stop_key("r", "gpu")) == {"reason": "enough"}
    runboard.ask_to_stop(local_store, "r", "less", ["cpu"])
    runboard.lift_stop(local_store, "r", ["gpu"], ["cpu"])
    assert runboard.read_object(local_store, runboard.stop_key("r", "cpu")) == {"reason": "less"}
    assert local_store.stat(runboard.stop_key("r", "gpu")) is None


def test_an_interrupt_from_the_keyboard_ends_with_the_code_of_interruption(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.cli.survey_of", interrupted)
    assert typed(tmp_path, "plan", "fleet.yaml").returncode == 75

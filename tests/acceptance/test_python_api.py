"""The verbs as Python: the same night as on the command line, its tables as data frames, its errors as exceptions."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import polars
import pytest

from orchestrator import cli
from orchestrator.api import OpenFleet, open_fleet
from orchestrator.controller import Signals
from orchestrator.errors import NotFound, QueryError, SpecError, UnknownRun, UsageError


@pytest.fixture(scope="module")
def night(make_home):
    """A home in which one night has passed, its fleet as Python has it, and the summary."""
    home = make_home()
    fleet = open_fleet(home.fleet)
    assert {fleet.plan().plan.done} == {frozenset()}
    summary = fleet.run(backend="local", cache=home.root / "cache", actor="a notebook")
    return home, fleet, summary


def test_a_run_ends_as_it_does_on_the_command_line(night):
    home, fleet, summary = night
    assert (summary.outcome, summary.exit_code) == ("blocked", 3)
    assert summary.verdicts == {"pass": 2, "block": 1}
    again = home.run(check=0)
    assert again["outcome"] == "nothing to do"
    assert not fleet.plan().plan.todo


def test_tables_are_arrow_and_become_data_frames(night):
    _, fleet, _ = night
    verdicts = fleet.table("verdicts")
    asked = fleet.query("SELECT recipe, verdict FROM verdicts WHERE gate = 'overall' ORDER BY recipe")
    assert asked.to_pandas()["verdict"].tolist() == ["pass", "block", "pass"]
    assert polars.from_arrow(verdicts).height == verdicts.num_rows >= 3
    with pytest.raises(QueryError, match="known: units"):
        fleet.table("verdict")


def test_the_actor_stands_in_the_record_of_promotions(night):
    _, fleet, _ = night
    assert set(fleet.table("promotions")["actor"].to_pylist()) == {"a notebook"}


def test_runs_their_status_and_reports(night):
    _, fleet, summary = night
    assert summary.run_id in {run["run_id"] for run in fleet.runs()}
    assert fleet.status(summary.run_id)["exit_code"] == 3
    assert fleet.report(summary.run_id).startswith("<!doctype html>")
    assert "lm-too-far" in fleet.report(summary.run_id, "md")
    with pytest.raises(UnknownRun, match="no run 'x'"):
        fleet.status("x")


def test_tables_are_made_anew_from_the_results_alone(night):
    _, fleet, _ = night
    before = fleet.table("units").num_rows
    done = fleet.rebuild()
    assert (done.units, done.skipped) == (before, ())
    assert fleet.table("units").num_rows == before


def test_aliases_move_and_move_back_with_a_record(night):
    _, fleet, _ = night
    published = fleet.history()[0]
    model, version = published["model"], published["published_version"]
    moved = fleet.promote(model, version, alias="champion", reason="the best", actor="a notebook")
    assert moved is not None
    assert [(row["alias"], row["actor"]) for row in fleet.history(model, "champion")] == [
        ("champion", "a notebook")
    ]
    assert fleet.promote(model, version, alias="champion", reason="again") is None
    with pytest.raises(UsageError, match="champion"):
        fleet.rollback(model, alias="champion", reason="nothing was there before")
    with pytest.raises(UsageError, match="no registry 'nowhere'"):
        fleet.promote(model, version, alias="champion", reason="x", registry="nowhere")


def test_before_the_first_night_there_is_no_morning(night):
    _, fleet, _ = night
    with pytest.raises(UsageError, match="has had no night yet"):
        fleet.morning()
    with pytest.raises(NotFound, match="no night 2026-01-01T0100"):
        fleet.morning("2026-01-01T0100", "html")


def test_a_kind_of_report_that_is_none_is_told_with_those_that_are(night):
    _, fleet, _ = night
    for tell, kinds in ((fleet.report, "html, md"), (fleet.morning, "html, md, json")):
        with pytest.raises(UsageError, match=f"kind 'pdf'; the kinds are {kinds}$"):
            tell(kind="pdf")


def test_every_verb_of_the_command_line_is_there_but_those_that_begin_other_processes():
    verbs = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    of_processes = {"submit", "join", "logs", "cancel", "nightly", "exporter"}
    of_files = {"init", "schema", "questions"}
    known = {"gc": "collect"}
    assert {
        verb for verb in verbs - of_processes - of_files if not hasattr(OpenFleet, known.get(verb, verb))
    } == set()


def test_a_store_without_runs_says_so(make_home):
    fleet = open_fleet(make_home().fleet)
    assert fleet.runs() == []
    with pytest.raises(UnknownRun, match="no run in"):
        fleet.report()
    with pytest.raises((NotFound, UnknownRun)):
        fleet.status()


def test_a_done_unit_is_explained_by_its_result(night):
    _, fleet, summary = night
    planned = fleet.plan()
    key = next(iter(planned.plan.units))
    [found] = fleet.explain(key, planned)
    assert found.unit["state"] == "cached"
    assert found.result is not None
    assert found.result["run_id"] == summary.run_id


def test_explain_says_on_the_command_line_what_changed_since_the_nearest_result(night):
    home, _, summary = night
    text = home.fleet.read_text()
    home.fleet.with_name("other.yaml").write_text(text.replace("amount: 0.95", "amount: 0.9"))
    units = json.loads(home.cli("explain", "other.yaml", "lm", "--json", check=0).stdout)
    [prune] = [one for one in units if one["unit"]["task"] == "prune" and one["unit"]["state"] == "to do"]
    assert prune["nearest"]["differences"] == ["amount: 0.95, now 0.9"]
    told = home.cli("explain", "other.yaml", prune["unit"]["unit_key"][:10], check=0).stdout
    assert "amount: 0.95, now 0.9" in told
    assert summary.run_id in told
    table = home.cli("explain", "other.yaml", "zoo/lm@1", check=0).stdout
    assert table.count("\n") == len(units) + 1
    unknown = home.cli("explain", "other.yaml", "ln", check=2)
    assert "no unit and no model 'ln'" in unknown.stderr


def test_every_digest_is_checked_and_garbage_goes(night):
    _, fleet, _ = night
    assert not fleet.verify().damages
    assert not fleet.garbage(older_than=3600.0).doomed
    assert not fleet.collect(older_than=3600.0).removed
    for limits in ({"older_than": 60.0}, {"older_than": -1.0}, {"runs_older_than": float("nan")}):
        with pytest.raises(UsageError, match="older_than is"):
            fleet.collect(**limits)


def test_the_plan_is_simulated_with_one_slot_more(night):
    _, fleet, _ = night
    base, wider = fleet.simulate(nothing_cached=True)
    assert (base.widened, wider.widened) == ("", "cpu")
    assert wider.outcome.makespan_seconds <= base.outcome.makespan_seconds


def test_the_doctor_finds_nothing_wrong_with_a_sound_fleet(night):
    _, fleet, _ = night
    states = {check.state.value for check in fleet.doctor()}
    assert states <= {"ok", "warning"}


def test_a_signal_set_by_another_thread_stops_a_run_that_can_go_on(make_home):
    home = make_home()
    fleet = open_fleet(home.fleet)
    stopped = fleet.run(backend="local", cache=home.root / "cache", signals=Signals(drain="enough"))
    assert (stopped.exit_code, stopped.stop_reason) == (75, "enough")
    assert stopped.carried_over == len(fleet.plan().plan.todo)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"backend": "slurm"}, "no backend 'slurm'"),
        ({"backend": "local", "address": "10.0.0.1:6379"}, "has no --address"),
        ({"window": "99:00-x"}, "window"),
        ({"budget_hours": float("nan")}, "budget_hours is nan"),
        ({"budget_hours": -1.0}, "budget_hours is -1.0"),
        ({"max_failures": -1}, "max_failures is -1"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_read(make_home, arguments, told):
    fleet = open_fleet(make_home().fleet)
    with pytest.raises(UsageError, match=told):
        fleet.run(**arguments)
    assert fleet.runs() == []


def test_mistakes_in_the_fleet_file_are_told_with_their_lines(tmp_path):
    (tmp_path / "fleet.yaml").write_text("version: 1\nname: x\nstroe: ./out\n")
    with pytest.raises(SpecError, match="stroe"):
        open_fleet(tmp_path / "fleet.yaml")


REPOSITORY = Path(__file__).resolve().parent.parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def shown():
    """(where, code) of all Python that users are shown."""
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    for page in pages:
        yield from ((page.name, code) for code in BLOCK.findall(page.read_text()))
    for book in sorted((REPOSITORY / "examples").glob("*.ipynb")):
        cells = json.loads(book.read_text())["cells"]
        yield book.name, "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize(("where", "code"), list(shown()))
def test_all_python_that_users_are_shown_runs_in_the_folder_of_a_fleet(night, where, code):
    home, _, _ = night
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=home.root, env=home.all_environment(), capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, f"{where}: {done.stderr[-3000:]}"


def test_the_notebook_is_kept_without_outputs():
    for book in (REPOSITORY / "examples").glob("*.ipynb"):
        for cell in json.loads(book.read_text())["cells"]:
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None

"""One night through the command line: it runs, it is idempotent, it survives, and it says what it did."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

COMMAND = Path(sys.executable).parent / "prunefleet"
CANARY = "canary-4711"


@pytest.fixture(scope="module")
def night(make_home):
    """A home in which one night has passed, as a user has it: in a process of its own; and its summary."""
    home = make_home()
    home.environment["AWS_SECRET_ACCESS_KEY"] = CANARY
    done = home.cli("run", "fleet.yaml", "--backend", "local", "--json", check=3)
    home.environment.clear()
    return home, json.loads(done.stdout)


def test_the_first_night_does_everything_and_refuses_what_goes_too_far(night):
    home, summary = night
    assert summary["outcome"] == "blocked"
    assert summary["units"]["failed"] == summary["units"]["quarantined"] == 0
    assert summary["verdicts"] == {"pass": 2, "block": 1}
    rows = home.query("SELECT model, recipe, verdict FROM verdicts WHERE gate = 'overall' ORDER BY recipe")
    assert [(row["recipe"], row["verdict"]) for row in rows] == [
        ("lm-half", "pass"),
        ("lm-too-far", "block"),
        ("mlp-two-four", "pass"),
    ]


def test_the_second_night_has_nothing_to_do(night):
    home, _ = night
    before = home.results()
    again = home.run(check=0)
    assert again["outcome"] == "nothing to do"
    assert again["units"]["done"] == 0
    assert home.results() == before
    talk = home.cli("run", "fleet.yaml", check=0).stderr
    assert "nothing to do" in talk


def test_the_plan_knows_what_is_cached(night):
    home, _ = night
    plan = home.plan()
    assert {unit["state"] for unit in plan["units"]} == {"cached"}
    assert home.cli("plan", "fleet.yaml", "--detailed-exitcode").returncode == 0


def test_what_passed_is_published_under_its_alias_and_what_did_not_is_not(night):
    home, summary = night
    aliases = json.loads((home.root / "published" / "lm" / "aliases.json").read_text())
    version = aliases["candidate"]
    assert "lm-half" in version
    assert (home.root / "published" / "lm" / version / "model.safetensors").is_file()
    assert not list((home.root / "published").rglob("*too-far*"))
    assert len(summary["published"]) == 1


def test_what_a_gate_cannot_tell_is_held_until_the_recipe_says_to_publish_it(make_home):
    home = make_home()
    text = home.fleet.read_text().replace(
        "max_slice_drop: 9.0, min_samples: 2", "max_slice_drop: 9.0, min_samples: 1000"
    )
    home.fleet.write_text(text)
    first = home.run(check=3)
    assert first["verdicts"] == {"block": 1, "inconclusive": 1, "pass": 1}
    assert first["published"] == []
    assert not list((home.root / "published").rglob("*lm-half*"))
    home.fleet.write_text(text.replace("min_samples: 1000", "min_samples: 1000, inconclusive: publish"))
    second = home.run(check=0)
    assert second["units"]["done"] == 0
    assert len(second["published"]) == 1
    aliases = json.loads((home.root / "published" / "lm" / "aliases.json").read_text())
    assert "lm-half" in aliases["candidate"]
    (row,) = home.query("SELECT reason FROM promotions")
    assert "could not tell" in row["reason"]


def test_the_artifact_is_exactly_as_sparse_as_was_asked(night):
    home, _ = night
    (row,) = home.query("SELECT digest FROM artifacts WHERE recipe = 'mlp-two-four'")
    pruned = load_file(home.store / "artifacts" / row["digest"] / "model.safetensors")
    dense = load_file(home.root / "zoo" / "mlp" / "1" / "model.safetensors")
    weights = [name for name, value in dense.items() if value.ndim == 2]
    for name in weights:
        groups = (pruned[name] != 0).reshape(-1, 4).sum(axis=1)
        assert (groups == 2).all()
        assert (pruned[name][pruned[name] != 0] == dense[name][pruned[name] != 0]).all()
    for name in set(dense) - set(weights):
        assert (pruned[name] == dense[name]).all()


def test_tables_are_read_by_other_tools(night):
    import duckdb
    import polars
    import pyarrow as pa
    from deltalake import DeltaTable

    home, _ = night
    path = str(home.store / "tables" / "units")
    dataset = DeltaTable(path).to_pyarrow_dataset()
    assert dataset.to_table().num_rows == len(home.results())
    assert polars.read_delta(path).height == len(home.results())
    assert duckdb.connect().execute("SELECT count(*) FROM dataset").fetchall() == [(len(home.results()),)]
    one = next((home.store / "results" / "sensitivity").rglob("*.arrow"))
    table = pa.ipc.open_file(one).read_all()
    assert {"layer", "amount", "delta", "stderr"} <= set(table.column_names)
    assert b"prunefleet" in table.schema.metadata


def test_the_report_stands_beside_the_run(night):
    home, summary = night
    html = (home.store / "runs" / summary["run_id"] / "report.html").read_text()
    assert "lm-too-far" in html
    text = home.cli("report", "latest", "--store", "store", check=0).stdout
    assert "lm-too-far" in text
    told = home.cli("report", summary["run_id"], "--store", "store", "--to", "out.html", check=0)
    assert (home.root / "out.html").read_text() == html
    assert "out.html" in told.stderr


def test_status_reads_the_store_alone(night):
    home, summary = night
    shutil.copytree(home.store, home.root / "elsewhere", dirs_exist_ok=True)
    told = json.loads(home.cli("status", summary["run_id"], "--store", "elsewhere", "--json", check=0).stdout)
    assert told["outcome"] == "blocked"
    assert told["units"]["done"] == summary["units"]["done"]
    assert summary["run_id"] in home.cli("status", "--store", "elsewhere", check=0).stdout


def test_every_result_says_where_it_came_from(night):
    home, summary = night
    rows = home.query("SELECT * FROM units")
    assert len(rows) == len(home.results())
    for row in rows:
        assert row["run_id"] == summary["run_id"]
        assert row["pool"] == "cpu"
        assert row["wall_seconds"] > 0
        assert row["peak_memory_bytes"] > 10**7
        assert len(row["model_digest"]) == 64


def test_a_new_version_is_all_that_the_next_night_works_on(make_home, parts):
    home = make_home()
    first = home.run(check=3)
    shutil.copytree(parts / "llama2", home.root / "zoo" / "lm" / "2")
    todo = {unit["model"] for unit in home.plan()["units"] if unit["state"] == "to do"}
    assert todo == {"zoo/lm@2"}
    second = home.run(check=5)
    assert 0 < second["units"]["done"] < first["units"]["done"]
    models = home.query(f"SELECT DISTINCT model, version FROM units WHERE run_id = '{second['run_id']}'")
    assert models == [{"model": "lm", "version": "2"}]
    aliases = json.loads((home.root / "published" / "lm" / "aliases.json").read_text())
    assert aliases["candidate"].startswith("2-")
    told = (home.root / "store" / "runs" / second["run_id"] / "report.md").read_text()
    assert f"## Since run `{first['run_id']}`" in told
    assert "zoo/lm@2" in told.split("## Since run")[1].split("\n## ")[0]


def test_broken_models_cost_only_themselves(make_home, parts):
    home = make_home(
        models={"mlp/1": "mlp", "nan/1": "mlp", "cut/1": "mlp", "empty/1": "mlp", "odd/1": "mlp"}
    )
    zoo = home.root / "zoo"
    weights = load_file(zoo / "nan/1/model.safetensors")
    name = next(iter(weights))
    weights[name][0] = float("nan")
    save_file(weights, zoo / "nan/1/model.safetensors", metadata={"format": "pt"})
    whole = (zoo / "cut/1/model.safetensors").read_bytes()
    (zoo / "cut/1/model.safetensors").write_bytes(whole[:-100])
    (zoo / "empty/1/model.safetensors").write_bytes(b"")
    config = json.loads((zoo / "odd/1/config.json").read_text())
    (zoo / "odd/1/config.json").write_text(
        json.dumps({**config, "architectures": ["MLPForClassification"], "input_size": 7})
    )
    summary = home.run(check=4)
    assert summary["outcome"] == "incomplete"
    assert summary["verdicts"] == {"pass": 1}
    rows = home.query("SELECT DISTINCT model, failure_class, error FROM attempts")
    failed = {row["model"]: row for row in rows if row["failure_class"] == "bad_input"}
    assert set(failed) == {"nan", "odd"}
    assert name in failed["nan"]["error"]
    plan = home.plan()
    impossible = {
        item["subject"]: item["reason"] for item in plan["impossible"] if item["subject"].startswith("zoo/")
    }
    assert set(impossible) == {"zoo/cut@1", "zoo/empty@1"}
    assert all("model.safetensors" in reason for reason in impossible.values())
    again = home.run(check=4)
    assert again["units"]["done"] == 0, "what is quarantined is not tried again"
    lifted = home.run("--retry-quarantined", check=4)
    assert lifted["units"]["quarantined"] > 0, "unless somebody asks"


@pytest.mark.parametrize("moment", [0.5, 3.0])
def test_a_controller_killed_in_the_middle_is_gone_on_from(make_home, moment):
    home = make_home()
    process = subprocess.Popen(
        [str(COMMAND), "run", "fleet.yaml", "--backend", "local", "-q"],
        cwd=home.root, env=home.all_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (home.store / "runs").is_dir() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1.0)
    before = home.results()
    left = list((home.store / "underway").rglob("*.json"))
    assert left or moment < 1, "what was under way had been written down"
    summary = home.run()
    assert summary["exit_code"] in (0, 3)
    assert not list((home.store / "underway").rglob("*.json"))
    after = home.results()
    assert all(after[key] == data for key, data in before.items()), "a finished unit was written again"
    wanted = {unit["unit_key"] for unit in home.plan()["units"]}
    assert set(after) == wanted
    done = home.query("SELECT unit_key, count(*) AS times FROM units GROUP BY unit_key")
    assert {row["unit_key"] for row in done} == wanted
    assert {row["times"] for row in done} == {1}


@pytest.mark.parametrize("backend", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_sigterm_lets_what_runs_end_and_says_that_it_can_go_on(make_home, backend):
    home = make_home()
    process = subprocess.Popen(
        [str(COMMAND), "run", "fleet.yaml", "--backend", backend, "--json"],
        cwd=home.root, env=home.all_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list((home.store / "underway").rglob("*.json")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, talk = process.communicate(timeout=120)
    assert process.returncode == 75, talk
    summary = json.loads(output)
    assert summary["outcome"] == "interrupted"
    assert "SIGTERM" in summary["stop_reason"]
    assert summary["carried_over"] > 0
    assert home.run(check=3)["units"]["done"] == len(home.results()) - summary["units"]["done"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_run_at_once_and_it_can_go_on(make_home, number):
    home = make_home()
    process = subprocess.Popen(
        [str(COMMAND), "run", "fleet.yaml", "--backend", "local", "-q"],
        cwd=home.root, env=home.all_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list((home.store / "underway").rglob("*.json")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    assert "waiting for what runs" in process.stderr.readline()
    process.send_signal(number)
    process.wait(timeout=120)
    assert process.returncode == 75, process.stderr.read()


def test_a_budget_of_nothing_carries_everything_over_and_ends_well(make_home):
    home = make_home()
    summary = home.run("--budget-hours", "0", check=0)
    assert summary["outcome"] == "carried over"
    assert summary["units"]["done"] == 0
    assert summary["carried_over"] == len(home.plan()["units"])


def test_outside_its_window_a_run_starts_nothing_and_ends_well(make_home):
    home = make_home()
    now = datetime.now(UTC)
    begin, end = (now + timedelta(hours=hours) for hours in (2, 4))
    summary = home.run("--window", f"{begin:%H:%M}-{end:%H:%M} UTC", check=0)
    assert summary["outcome"] == "carried over"
    assert summary["carried_over"] == len(home.plan()["units"])
    assert "is not open" in summary["stop_reason"]
    begin = now - timedelta(hours=2)
    assert home.run("--window", f"{begin:%H:%M}-{end:%H:%M} UTC", check=3)["carried_over"] == 0


def test_the_environment_of_the_shell_is_not_in_the_store(night):
    home, _ = night
    assert home.results()
    for path in home.store.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes()

"""Two real Ray clusters with tokens share one run: sent through their Jobs APIs, seen through the store, one of them killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from servers import ray_nodes

from orchestrator.outputs import OUTPUTS
from orchestrator.stores.local import LocalStore
from orchestrator.tables.delta import read_table

pytestmark = pytest.mark.ray

COMMAND = (sys.executable, "-m", "orchestrator.cli")
ROOT = Path(__file__).parents[2]
LONG = 280.0
FLEET = """
version: 1
name: shared
store: ./store
registries: {zoo: {kind: directory, path: ./zoo}}
datasets: {digits: {kind: arrays, path: ./data/arrays.parquet}}
recipes:
  half:
    match: {registry: zoo}
    sensitivity: {dataset: digits, split: calibration, grid: [0.5], units: 2}
    prune: {criterion: wanda, amount: 0.5, allocation: sensitivity}
    evaluate: {dataset: digits, split: test, metric: loss}
    gates: {max_drop: 100.0, min_samples: 2}
pools: {east: {cpus: 1}, west: {cpus: 1}}
clusters:
  one: {address: "http://PLACE0", pools: [east], token_env: TOKEN_ONE, python: PYTHON}
  two: {address: "http://PLACE1", pools: [west], token_env: TOKEN_TWO, python: PYTHON}
"""


@pytest.fixture(scope="module")
def clusters(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    ours = {
        "PYTHONPATH": str(ROOT),
        "PRUNEFLEET_HEARTBEAT_SECONDS": "2",
        "XDG_CACHE_HOME": cache,
        "NO_COLOR": "1",
    }
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:

        def start(_):
            place = f"127.0.0.1:{ray_nodes.free_port()}"
            return stack.enter_context(ray_nodes.serve(count=0, cpus=1, environment=ours, dashboard=place))

        yield list(pool.map(start, range(2)))


@pytest.fixture
def fleet(tmp_path, clusters, tiny_model, tiny_data):
    for number in range(6):  # enough for the one that begins later
        tiny_model(tmp_path / "zoo" / f"mlp{number}" / "1", "MLPForClassification", seed=number)
    tiny_data(tmp_path / "data")
    text = FLEET.replace("PYTHON", sys.executable)
    for number, cluster in enumerate(clusters):
        text = text.replace(f"PLACE{number}", cluster.dashboard)
    (tmp_path / "fleet.yaml").write_text(text)
    return tmp_path


@pytest.fixture
def cli(fleet, clusters):
    tokens = {
        "TOKEN_ONE": clusters[0].environment["RAY_AUTH_TOKEN"],
        "TOKEN_TWO": clusters[1].environment["RAY_AUTH_TOKEN"],
    }

    def call(*words, **changes):
        return subprocess.run(
            [*COMMAND, *words], cwd=fleet, env={**os.environ, **tokens, "PYTHONPATH": str(ROOT), "PRUNEFLEET_HEARTBEAT_SECONDS": "2", **changes},
            capture_output=True, text=True, timeout=LONG,
        )  # fmt: skip

    return call


def results(fleet):
    return sorted((fleet / "store" / "results").rglob("*.arrow"))


def ended(cli, run, names=("one", "two")):
    """The status of a run, once these clusters have ended their parts."""
    deadline = time.monotonic() + LONG
    while True:
        told = cli("status", run, "--json")
        status = json.loads(told.stdout) if told.returncode == 0 else {}
        clusters = status.get("clusters", {})
        are_over = all(clusters.get(name, {}).get("state") == "ended" for name in names)
        if are_over and "outcome" in status:
            return status
        if time.monotonic() > deadline:
            said = [cli("logs", run, "--cluster", name).stdout[-3000:] for name in names]
            raise AssertionError(f"{told.stdout}\n{told.stderr}\n{said}")
        time.sleep(0.5)


def check_whole(fleet, wanted):
    assert len(results(fleet)) == wanted
    rows = read_table(LocalStore(fleet / "store"), "units").to_table().to_pylist()
    assert max(Counter(row["unit_key"] for row in rows).values()) == 1
    assert len(rows) == wanted


def test_both_work_on_one_run_and_a_second_submit_starts_nothing(cli, fleet, clusters):
    refused = cli("submit", "fleet.yaml", TOKEN_TWO="wrong")
    assert refused.returncode == 77, refused.stderr
    sent = cli("submit", "fleet.yaml", "--json")
    assert sent.returncode == 0, sent.stderr
    told = json.loads(sent.stdout)
    assert TypeAdapter(OUTPUTS["submit"]).validate_python(told)
    run = told["run_id"]
    assert [job["new"] for job in told["jobs"]] == [True, True]
    again = json.loads(cli("submit", "fleet.yaml", "--run", run, "--json").stdout)
    assert [job["new"] for job in again["jobs"]] == [False, False]
    assert [job["job"] for job in again["jobs"]] == [f"{run}-one-1", f"{run}-two-1"]
    followed = cli("logs", run, "--cluster", "one", "-f")
    assert followed.returncode == 0, followed.stderr
    assert "units to do" in followed.stdout
    status = ended(cli, run)
    assert status["exit_code"] == 0, status
    check_whole(fleet, status["wanted"])
    rows = read_table(LocalStore(fleet / "store"), "units").to_table().to_pylist()
    assert {row["pool"] for row in rows} == {"east", "west"}
    secrets = [cluster.environment["RAY_AUTH_TOKEN"] for cluster in clusters]
    for path in (fleet / "store").rglob("*"):
        if path.is_file():
            assert not any(secret.encode() in path.read_bytes() for secret in secrets)


@pytest.mark.soak
def test_clusters_keep_to_the_budget_of_their_run_and_go_on_when_it_is_submitted_again(cli, fleet):
    sent = cli("submit", "fleet.yaml", "--run", "short", "--budget-hours", "0")
    assert sent.returncode == 0, sent.stderr
    status = ended(cli, "short")
    assert (status["outcome"], status["exit_code"]) == ("carried over", 0), status
    assert "budget of 0 hours" in status["stop_reason"]
    assert results(fleet) == []
    again = json.loads(cli("submit", "fleet.yaml", "--run", "short", "--json").stdout)
    assert [job["job"] for job in again["jobs"]] == ["short-one-2", "short-two-2"]
    deadline = time.monotonic() + LONG
    while (status := ended(cli, "short"))["outcome"] != "done":
        assert time.monotonic() < deadline, status
        time.sleep(0.5)
    check_whole(fleet, status["wanted"])


@pytest.mark.soak
def test_a_cluster_that_is_killed_costs_nothing_but_time(cli, fleet, clusters):
    sent = cli("submit", "fleet.yaml", "--run", "killed", "--json")
    assert sent.returncode == 0, sent.stderr
    deadline = time.monotonic() + LONG
    while not results(fleet):
        assert time.monotonic() < deadline, cli("logs", "killed", "--cluster", "one").stdout[-3000:]
        time.sleep(0.1)
    clusters[1].stop()
    status = ended(cli, "killed", ["one"])
    assert status["exit_code"] == 0, status
    check_whole(fleet, status["wanted"])

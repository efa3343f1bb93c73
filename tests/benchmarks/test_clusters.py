"""What a second cluster costs: the same fleet on one Ray cluster of two slots and on two clusters of one slot each, in turn."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from servers import ray_nodes

from orchestrator.stores.local import LocalStore
from orchestrator.tables.delta import read_table

pytestmark = [pytest.mark.benchmark, pytest.mark.ray]

ROOT = Path(__file__).parents[2]
ROUNDS = 3
COPIES = 8
LIMIT = 1.2
TOGETHER = {"whole": 2}
APART = {"east": 1, "west": 1}

FLEET = """
version: 1
name: bench
store: {store}
registries: {{zoo: {{kind: directory, path: {models}}}}}
datasets:
  manual: {{kind: text, path: {manual}, slice_by: topic}}
recipes:
  half:
    match: {{registry: zoo}}
    sensitivity: {{dataset: manual, split: calibration, samples: 32}}
    prune: {{criterion: wanda, amount: 0.5, allocation: sensitivity}}
    evaluate: {{dataset: manual, split: test, metric: perplexity}}
    gates: {{max_drop: 0.5}}
  two-four:
    match: {{registry: zoo}}
    prune: {{criterion: magnitude, pattern: 2:4}}
    evaluate: {{dataset: manual, split: test, metric: perplexity}}
    gates: {{max_drop: 0.5}}
pools: {pools}
clusters: {clusters}
"""


@pytest.fixture
def clusters(tmp_path):
    """By name; all of them wait while one or two work, so that they cost each kind of round the same."""
    ours = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache"), "NO_COLOR": "1"}
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                ray_nodes.serve(
                    count=0, cpus=cpus, environment=ours, dashboard=f"127.0.0.1:{ray_nodes.free_port()}"
                )
            )
            for name, cpus in (TOGETHER | APART).items()
        }


@pytest.fixture
def models(zoo, tmp_path):
    for number in range(COPIES):  # other bytes each, so that no unit is shared
        target = tmp_path / "zoo" / f"lm{number}" / "1"
        shutil.copytree(next((zoo / "models").glob("byte-llama-s*")) / "1", target)
        config = target / "config.json"
        config.write_text(config.read_text() + " " * number)
    return tmp_path / "zoo"


def test_two_clusters_take_little_longer_than_one_of_the_same_size(zoo, models, clusters, tmp_path):
    def night(slots: dict[str, int], folder: Path) -> tuple[float, float]:
        """Seconds from the first unit's start to the last one's end, and from the submission to the end of the run."""
        folder.mkdir()
        (folder / "fleet.yaml").write_text(
            FLEET.format(
                store=folder / "store",
                models=models,
                manual=zoo / "data" / "manual.jsonl",
                pools=json.dumps({name: {"cpus": cpus} for name, cpus in slots.items()}),
                clusters=json.dumps(
                    {
                        name: {
                            "address": f"http://{clusters[name].dashboard}",
                            "pools": [name],
                            "token_env": f"TOKEN_{name.upper()}",
                            "python": sys.executable,
                        }
                        for name in slots
                    }
                ),
            )
        )
        tokens = {f"TOKEN_{name.upper()}": clusters[name].environment["RAY_AUTH_TOKEN"] for name in slots}

        def call(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "orchestrator.cli", *words, "--json"],
                cwd=folder, env={**os.environ, **tokens}, capture_output=True, text=True, timeout=600,
            )  # fmt: skip

        began = time.perf_counter()
        sent = call("submit", "fleet.yaml")
        assert sent.returncode == 0, sent.stderr
        run = json.loads(sent.stdout)["run_id"]
        while "outcome" not in (status := json.loads(call("status", run).stdout or "{}")):
            assert time.perf_counter() - began < 600, status
            time.sleep(2)
        seconds = time.perf_counter() - began
        assert status["outcome"] == "done", status
        rows = read_table(LocalStore(folder / "store"), "units").to_table().to_pylist()
        assert len(rows) == status["wanted"] == len({row["unit_key"] for row in rows})
        assert {row["pool"] for row in rows} == set(slots)
        first, last = (
            min(row["started_at"] for row in rows),
            max(row["finished_at"] for row in rows),
        )
        return (last - first).total_seconds(), seconds

    night(TOGETHER, tmp_path / "warm-together")
    night(APART, tmp_path / "warm-apart")
    pairs = [
        (night(TOGETHER, tmp_path / f"together{number}"), night(APART, tmp_path / f"apart{number}"))
        for number in range(ROUNDS)
    ]
    print(f"\n(makespan, whole run) of one cluster and of two, seconds: {pairs}")
    makespans, wholes = ([two[at] / one[at] for one, two in pairs] for at in (0, 1))
    print(f"two clusters beside one: makespans {makespans}, whole runs {wholes}")
    assert statistics.median(makespans) <= LIMIT

"""What orchestration costs: the same task bodies in a bare Ray loop and in a whole run, in turn, on one warm cluster.

The opponent keeps nothing: no plan, no digests, no durable results, no retries; its rows come back to the driver.
"""

from __future__ import annotations

import importlib
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytestmark = [pytest.mark.benchmark, pytest.mark.ray]

ROUNDS = 3
COPIES = 8

FLEET = """
version: 1
name: bench
store: ./store
registries: {{zoo: {{kind: directory, path: ./zoo}}}}
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
pools:
  cpu: {{cpus: 2}}
"""


def body(work, task, *needs):
    """One unit as the bare loop runs it: the task's function on local files, its rows back to the driver."""
    import torch

    torch.set_num_threads(1)
    if task == "tasks.pruning" and needs:
        work = replace(work, inputs={"sensitivity": [row for need in needs for row in need["sensitivity"]]})
    product = importlib.import_module(task).run(work)
    return {name: list(rows) for name, rows in product.tables.items()}


def judged(params, seed, dense, pruned):
    """The judge unit of the bare loop."""
    from orchestrator.gate import judging

    return judging.run(params, dense["outcomes"], pruned["outcomes"], seed)


def bare_loop(seen, ray):
    """All units of the plan as bare Ray tasks, submitted at once, each started when what it needs is there; seconds."""
    from orchestrator.domain import TaskName
    from orchestrator.worker import ENTRY
    from tasks.contract import Dataset, Work

    remote_body = ray.remote(max_retries=0)(body)
    remote_judge = ray.remote(max_retries=0)(judged)
    scratch = Path(tempfile.mkdtemp())
    started, refs = time.perf_counter(), {}
    for key in seen.plan.todo:
        unit = seen.plan.units[key]
        needs = [refs[need] for need in unit.needs]
        if unit.task is TaskName.JUDGE:
            refs[key] = remote_judge.remote(unit.step.params, unit.step.seed, *needs)
            continue
        is_of_pruned = unit.task is TaskName.EVALUATE and unit.needs
        model = scratch / unit.needs[0] if is_of_pruned else Path(unit.model.uri)
        (scratch / key).mkdir()
        data = unit.step.data
        role = "evaluation" if unit.task is TaskName.EVALUATE else "calibration"
        datasets = {}
        if data:
            datasets[role] = Dataset(
                path=Path(data.path), kind=data.kind, split=data.split, slices=data.slices, shape=data.shape, samples=data.samples
            )  # fmt: skip
        work = Work(
            model=model, params=unit.step.params, datasets=datasets, inputs={}, output=scratch / key,
            part=unit.part, parts=unit.parts, seed=unit.step.seed,
        )  # fmt: skip
        refs[key] = remote_body.remote(work, ENTRY[unit.task], *needs)
    ray.get(list(refs.values()))
    seconds = time.perf_counter() - started
    shutil.rmtree(scratch)
    return seconds


@pytest.fixture(scope="module")
def ray():
    import os

    from orchestrator.backends import ray_backend

    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    assert ray_backend
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
    )
    ray.cloudpickle.register_pickle_by_value(__import__("sys").modules[__name__])
    yield ray
    ray.shutdown()


@pytest.fixture
def make_survey(zoo, tmp_path):
    from orchestrator.survey import read_fleet, survey

    for number in range(COPIES):  # other bytes each, so that no unit is shared
        target = tmp_path / "zoo" / f"lm{number}" / "1"
        shutil.copytree(next((zoo / "models").glob("byte-llama-s*")) / "1", target)
        config = target / "config.json"
        config.write_text(config.read_text() + " " * number)
    (tmp_path / "fleet.yaml").write_text(FLEET.format(manual=zoo / "data" / "manual.jsonl"))

    def make():
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        return survey(*read_fleet(tmp_path / "fleet.yaml"), time.time())

    return make


def test_orchestration_keeps_most_of_a_bare_loops_throughput(ray, make_survey, tmp_path):
    from orchestrator.backends.ray_backend import RayBackend, _remote
    from orchestrator.controller import Signals
    from orchestrator.execution import RunOptions, execute

    class Shared(RayBackend):
        def close(self):
            """The cluster is shared by all rounds."""

    def connect(pools, run):
        return Shared(pools=pools, body=run, remote=_remote(run), temporary=None)

    def whole_run():
        seen = make_survey()
        started = time.perf_counter()
        summary = execute(seen, connect, RunOptions(cache_root=str(tmp_path / "cache")), Signals())
        seconds = time.perf_counter() - started
        assert summary.counts["done"] == len(seen.plan.todo)
        return seconds

    bare_loop(make_survey(), ray)
    whole_run()
    pairs = []
    for _ in range(ROUNDS):
        pairs.append((bare_loop(make_survey(), ray), whole_run()))
    ratios = [bare / whole for bare, whole in pairs]
    print(
        f"\nunits: {len(make_survey().plan.todo)}; bare and whole seconds: {[(round(a, 2), round(b, 2)) for a, b in pairs]}"
    )
    print(f"throughput of a whole run, as a share of the bare loop's: median {statistics.median(ratios):.3f}")
    assert statistics.median(ratios) >= 0.80

"""A cluster of several nodes with labels and (pretended) GPUs: two pools work at once, each on its own nodes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import bodies
import psutil
import pytest

from orchestrator.domain import FailureClass

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    os.environ["PYTHONPATH"] = str(Path(bodies.__file__).parent)
    from orchestrator.backends import ray_backend  # sets Ray's environment before ray is loaded

    assert ray_backend
    import ray
    from ray.cluster_utils import Cluster

    made = _made(Cluster)
    yield made
    ray.shutdown()
    made.shutdown()


def _made(Cluster):
    """Ray gives each of its daemons 30 s to start, which a busy machine may need more than once."""
    small = {"object_store_memory": 80 * 2**20}
    for start in range(3):
        made = None
        try:
            made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
            made.add_node(num_cpus=2, labels={"prunefleet.io/pool": "cpu"}, **small)
            gpu = {"prunefleet.io/pool": "gpu", "ray.io/accelerator-type": "H100"}
            made.add_node(num_cpus=2, num_gpus=2, labels=gpu, **small)
            made.wait_for_nodes()
            return made
        except Exception:
            if made is not None:
                made.shutdown()
            if start == 2:
                raise
    raise AssertionError


@pytest.fixture
def pools():
    from orchestrator.domain import Pool

    def pool(name, cpus, gpus, selector):
        return Pool(
            name=name, cpus=cpus, gpus=gpus, memory_bytes=None, cpus_per_shard=1, gpus_per_shard=1 if gpus else 0,
            label_selector=selector, price_per_hour=0,
        )  # fmt: skip

    return {
        "cpu": pool("cpu", 2, 0, {"prunefleet.io/pool": "cpu"}),
        "gpu": pool("gpu", 2, 2, {"ray.io/accelerator-type": "in(H100, L4)"}),
        "spot": pool("spot", 4, 0, {"ray.io/market-type": "spot"}),
    }


@pytest.fixture
def connect(cluster, pools):
    import ray

    from orchestrator.backends.ray_backend import connect as join

    opened = []

    def make(body):
        opened.append(join(pools, body, cluster.address))
        return opened[-1]

    yield make
    ray.shutdown()


def assignment(pools, name, pool, **payload):
    from orchestrator.domain import Shard
    from orchestrator.ports import Assignment

    shard = Shard(id=name, units=(name,), pool=pool, predicted_seconds=1.0, memory_bytes=0)
    return Assignment(attempt_id=name, shard=shard, pool=pools[pool], payload={"keys": [name], **payload})


def all_ended(backend, count, seconds=120):
    found, deadline = {}, time.monotonic() + seconds
    while len(found) < count:
        assert time.monotonic() < deadline, f"only {sorted(found)} ended"
        found.update({event.attempt_id: event for event in backend.wait(1.0)})
    return found


def test_slots_are_those_of_the_nodes_that_are_there(connect):
    assert connect(bodies.echo).capacity() == {"cpu": 2, "gpu": 2, "spot": 0}


def test_the_largest_node_of_each_pool_is_known_where_there_is_one(connect):
    found = connect(bodies.echo).largest_nodes()
    assert found.keys() == {"cpu", "gpu"}
    assert all(0 < memory < psutil.virtual_memory().total for memory in found.values())


def test_each_pool_runs_on_its_own_nodes_and_gpus_are_handed_out(connect, pools, tmp_path):
    backend = connect(bodies.where)
    for number in range(4):
        backend.submit(assignment(pools, f"c{number}", "cpu", file=str(tmp_path / f"c{number}")))
        backend.submit(assignment(pools, f"g{number}", "gpu", file=str(tmp_path / f"g{number}")))
    ended = all_ended(backend, 8)
    assert all(event.failure is None for event in ended.values())
    assert {(tmp_path / f"g{number}").read_text() for number in range(4)} <= {"0", "1"}
    assert {(tmp_path / f"c{number}").read_text() for number in range(4)} == {""}


def test_a_whole_fleet_on_two_pools_at_once(cluster, make_small_fleet, tmp_path):
    from orchestrator.backends.ray_backend import connect as join
    from orchestrator.controller import Signals
    from orchestrator.execution import RunOptions, execute
    from orchestrator.survey import read_fleet, survey
    from orchestrator.tables.delta import read_table

    fleet_file = make_small_fleet(models=4)
    seen = survey(*read_fleet(fleet_file), time.time())
    summary = execute(
        seen, lambda pools, body: join(pools, body, cluster.address), RunOptions(cache_root=str(tmp_path / "cache")), Signals()
    )  # fmt: skip
    assert summary.exit_code == 0, summary
    units = read_table(seen.store, "units").to_table().to_pylist()
    assert {row["pool"] for row in units} == {"cpu", "gpu"}
    assert len(units) == len(seen.plan.units) == summary.counts["done"]
    findings = read_table(seen.store, "findings").to_table().to_pylist()
    assert "no_gpu" in {row["kind"] for row in findings}, "a GPU that is not there is said aloud"
    models = list((tmp_path / "cache").rglob("model.safetensors"))
    assert models, "nodes keep what they fetched"


def test_what_was_on_a_node_whose_end_was_announced_is_preempted_and_its_slots_are_gone(
    cluster, connect, pools, tmp_path
):
    import ray

    spot = {"ray.io/market-type": "spot"}
    node = cluster.add_node(num_cpus=2, labels=spot, object_store_memory=80 * 2**20)
    cluster.wait_for_nodes()
    backend = connect(bodies.act)
    told = tmp_path / "s0"
    backend.submit(assignment(pools, "s0", "spot", do="sleep", file=str(told)))
    deadline = time.monotonic() + 60
    while not told.exists():
        assert time.monotonic() < deadline
        backend.wait(0.2)
    assert backend.capacity()["spot"] == 2
    (ident,) = [
        each["NodeID"] for each in ray.nodes() if each["Alive"] and spot.items() <= each["Labels"].items()
    ]
    subprocess.run(
        [Path(sys.executable).parent / "ray", "drain-node", "--address", cluster.address, "--node-id", ident,
         "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "taken back",
         "--deadline-remaining-seconds", "600"],
        check=True, capture_output=True,
    )  # fmt: skip
    while backend.capacity()["spot"] > 0:
        assert time.monotonic() < deadline + 60
        backend.wait(0.2)
    cluster.remove_node(node, allow_graceful=False)
    (ended,) = all_ended(backend, 1).values()
    assert ended.failure.failure_class is FailureClass.PREEMPTION


def test_what_died_once_runs_apart_and_whoever_kills_its_worker_gets_nobody_blamed(connect, pools, tmp_path):
    backend = connect(bodies.act)

    def attempt(name, **payload):
        told = assignment(pools, name, "cpu", **payload)
        backend.submit(replace(told, shard=replace(told.shard, units=("suspect",))))

    attempt("first", do="die")
    assert all_ended(backend, 1)["first"].failure.failure_class is FailureClass.POISON
    file = tmp_path / "pid"
    attempt("second", do="sleep", file=str(file))
    until(lambda: file.exists() and file.read_text())
    child = psutil.Process(int(file.read_text()))
    worker = child.parent()
    assert worker.name().startswith("ray::")
    worker.kill()
    assert all_ended(backend, 1)["second"].failure.failure_class is FailureClass.INFRASTRUCTURE
    until(lambda: not child.is_running())
    attempt("third", do="crash")
    failure = all_ended(backend, 1)["third"].failure
    assert failure.failure_class is FailureClass.POISON
    assert "SIGSEGV" in failure.error
    attempt("fourth")
    assert [report.key for report in all_ended(backend, 1)["fourth"].reports] == ["fourth"]


def until(holds, seconds=120):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)

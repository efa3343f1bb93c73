"""What a look at a Ray cluster tells: who may use it, and what its nodes give the pools."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.probes import clusters
from orchestrator.probes.checks import State

ROOT = Path(__file__).parents[2]
TOKEN = {"RAY_AUTH_MODE": "token"}


@pytest.mark.parametrize(
    ("address", "answer", "environment", "state", "words"),
    [
        ("10.0.0.5:6379", "OK", {}, State.BROKEN, "answers everybody"),
        ("10.0.0.5:6379", "OK", TOKEN, State.BROKEN, "answers everybody"),
        ("127.0.0.1:6379", "OK", {}, State.OK, "loopback"),
        ("10.0.0.5:6379", "UNAUTHENTICATED", TOKEN, State.OK, "refuses whoever has no token"),
        ("127.0.0.1:6379", "UNAUTHENTICATED", {}, State.DENIED, "none is set here"),
        ("10.0.0.5:6379", "UNAVAILABLE", TOKEN, State.WARNING, "answered UNAVAILABLE"),
    ],
)
def test_what_a_stranger_is_answered_decides_whether_the_door_is_shut(
    address, answer, environment, state, words
):
    check = clusters.check_door(address, answer, environment)
    assert check.state is state
    assert words in check.seen
    assert bool(check.advice) == (state is not State.OK)


def test_an_open_cluster_that_others_reach_is_not_joined(monkeypatch):
    monkeypatch.setattr(clusters, "answers", lambda address: None)
    monkeypatch.setattr(clusters, "stranger", lambda address: "OK")
    (check,) = clusters.check_cluster({}, "10.0.0.5:6379")
    assert (check.name, check.state) == ("token", State.BROKEN)
    assert "RAY_AUTH_MODE=token" in check.advice


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1"])
def test_where_nothing_listens_is_told_at_once(address):
    (check,) = clusters.check_cluster({}, address)
    assert check.state is State.UNREACHABLE
    assert "nothing listens" in check.seen


BESIDE_A_CLUSTER = """
import json, os
from dataclasses import asdict
from orchestrator.backends import ray_backend
from ray.cluster_utils import Cluster
from orchestrator.domain import Pool
from orchestrator.probes.clusters import check_cluster

def pool(name, cpus, selector):
    return Pool(name=name, cpus=cpus, gpus=0, memory_bytes=None, cpus_per_shard=1, gpus_per_shard=0,
                label_selector=selector, price_per_hour=0)

pools = {
    "all": pool("all", 2, {}),
    "some": pool("some", 64, {"prunefleet.io/pool": "cpu"}),
    "none": pool("none", 2, {"ray.io/market-type": "spot"}),
}
node = {"num_cpus": 3, "object_store_memory": 80 * 2**20, "labels": {"prunefleet.io/pool": "cpu"}}
cluster = Cluster(initialize_head=True, head_node_args=node)
with_token = [asdict(check) for check in check_cluster(pools, cluster.address)]
os.environ["RAY_AUTH_MODE"] = "disabled"
without = [asdict(check) for check in check_cluster(pools, cluster.address)]
os.environ["RAY_AUTH_MODE"] = "token"
cluster.shutdown()
print("FOUND " + json.dumps([with_token, without]))
"""


@pytest.mark.ray
def test_a_cluster_that_asks_for_a_token_is_used_with_it_and_refused_without():
    environment = {
        **os.environ,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BESIDE_A_CLUSTER],
        env=environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    with_token, without = json.loads(line.removeprefix("FOUND "))
    found = {check["name"]: check for check in with_token}
    assert found["token"]["seen"] == "it refuses whoever has no token"
    assert found["answers"]["seen"].startswith("1 node, head at 127.0.0.1:")
    assert "like here" in found["version"]["seen"]
    assert found["pool all"]["seen"] == "3 slots, of which the fleet uses 2"
    assert found["pool some"]["seen"] == "3 slots of 64 promised"
    assert found["pool none"]["state"] == "warning"
    assert "ray.io/market-type=spot" in found["pool none"]["seen"]
    assert [(check["name"], check["state"]) for check in without] == [("token", "not permitted")]
    assert environment["RAY_AUTH_TOKEN"] not in done.stdout + done.stderr

"""A shard that hangs: its process ends itself at its limit, even while its code never lets go of the interpreter."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

STORY = """
import re, sys
from orchestrator import worker
from orchestrator.domain import Pool, Shard
from orchestrator.spec import StoreSpec

def hang(place, unit):
    re.match(r"(a+)+$", "a" * 64 + "b")  # one call into C that never returns

def quick(place, unit):
    return unit

worker.run_unit = {unit_run}
pool = Pool(name="cpu", cpus=1.0, gpus=0.0, memory_bytes=None, cpus_per_shard=1.0, gpus_per_shard=0.0,
            label_selector={{}}, price_per_hour=0.0)
order = worker.ShardOrder(
    run_id="r", attempt_id="a", limit_seconds={limit}, pool=pool, units=("u",), need_tasks={{}}, predicted_seconds={{}},
    shard=Shard(id="s", units=("u",), pool="cpu", predicted_seconds=1.0, memory_bytes=1),
    store=StoreSpec(url=sys.argv[1]), registries={{}}, cache_root=sys.argv[1], cache_bytes=1,
)
print(worker.run_shard(order))
"""


@pytest.fixture
def tell(tmp_path):
    def tell(**story):
        command = [sys.executable, "-c", STORY.format(**story), str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    return tell


def test_a_process_that_hangs_ends_itself_and_says_where_it_was(tell):
    started = time.monotonic()
    done = tell(unit_run="hang", limit=1.0)
    assert done.returncode != 0
    assert "in hang" in done.stderr
    assert time.monotonic() - started < 100


def test_a_process_within_its_limit_is_left_alone(tell):
    done = tell(unit_run="quick", limit=60.0)
    assert done.returncode == 0
    assert done.stdout.strip() == "('u',)"

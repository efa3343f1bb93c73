"""How long `status` takes on a store with a million results and a year of nights."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator.spec import StoreSpec
from orchestrator.stores.s3 import S3Store

RESULTS = 1_000_000
NIGHTS = 365
FAILED_ATTEMPTS = 100
"""Of each night; good ones leave nothing but their results."""
LIMIT_SECONDS = 3.0


def night(number: int) -> dict[str, bytes]:
    """The objects of one run, by key."""
    status = {
        "fleet": "fleet",
        "state": "ended",
        "outcome": "done",
        "wanted": RESULTS,
        "done_before": RESULTS - 10_000,
        "units": {"done": 9_997, "failed": 3},
        "exit_code": 4,
        "started_at": 86400.0 * number,
    }
    names = ["fleet.yaml", "plan.parquet", "report.html", "closed.json"]
    names += [f"attempts/{attempt}.json" for attempt in range(FAILED_ATTEMPTS)]
    folder = f"runs/night-{number:03}"
    return {
        f"{folder}/status.json": json.dumps(status).encode(),
        **{f"{folder}/{name}": b"[]" for name in names},
    }


def timed(where: list[str], *what: str) -> tuple[float, Any]:
    """Seconds of the whole command, and what it printed."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "status", *what, *where, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    seconds = time.perf_counter() - began
    assert done.returncode == 0, done.stderr
    return seconds, json.loads(done.stdout)


def check(where: list[str], capsys: pytest.CaptureFixture[str], kind: str) -> None:
    timed(where)  # reads the code into the machine's memory
    all_seconds, listed = timed(where)
    one_seconds, one = timed(where, "night-007")
    with capsys.disabled():
        print(f"\nstatus, {kind}: {NIGHTS} runs in {all_seconds:.2f} s, one of them in {one_seconds:.2f} s")
    assert [row["run_id"] for row in listed] == [f"night-{number:03}" for number in reversed(range(NIGHTS))]
    assert one["run_id"] == "night-007"
    assert max(all_seconds, one_seconds) <= LIMIT_SECONDS


@pytest.mark.benchmark
def test_status_of_a_million_results_in_a_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for first in range(256):
        (tmp_path / f"results/prune/{first:02x}").mkdir(parents=True)
    for number in range(RESULTS):
        key = hashlib.sha256(str(number).encode()).hexdigest()
        (tmp_path / f"results/prune/{key[:2]}/{key}.arrow").touch()
    for number in range(NIGHTS):
        for key, data in night(number).items():
            (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / key).write_bytes(data)
    check(["--store", str(tmp_path)], capsys, "directory")


@pytest.mark.benchmark
@pytest.mark.s3
def test_status_of_a_year_of_nights_in_a_bucket(
    ceph: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**ceph.environment, "AWS_ENDPOINT_URL": ceph.endpoint}.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{ceph.make_bucket()}/store"
    store = S3Store(StoreSpec(url=url, endpoint=ceph.endpoint))
    with ThreadPoolExecutor(16) as pool:
        for number in range(NIGHTS):
            list(pool.map(lambda item: store.put(*item), night(number).items()))
    check(["--store", url], capsys, "Ceph")

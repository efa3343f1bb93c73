"""What the local backend alone promises: attempts that run at once are shown different devices."""

from __future__ import annotations

import time

import bodies
import pytest

from orchestrator.backends.devices import VISIBLE
from orchestrator.backends.local_backend import LocalBackend
from orchestrator.domain import Pool, Shard
from orchestrator.ports import Assignment

GPUS = Pool(
    name="gpu", cpus=2, gpus=2, memory_bytes=None, cpus_per_shard=1, gpus_per_shard=1, label_selector={}, price_per_hour=0
)  # fmt: skip
LIMIT_SECONDS = 90


@pytest.fixture
def backend(monkeypatch):
    monkeypatch.delenv(VISIBLE, raising=False)
    opened = LocalBackend(pools={"gpu": GPUS}, body=bodies.act)
    yield opened
    opened.close()


def until(found):
    """What `found` brings as soon as it brings something."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


def test_attempts_that_run_at_once_see_different_devices_and_give_them_back(backend, tmp_path):
    def submit(name):
        payload = {
            "keys": [name], "do": "tell", "variable": VISIBLE, "file": str(tmp_path / name), "waits": True,
        }  # fmt: skip
        shard = Shard(id=name, units=(name,), pool="gpu", predicted_seconds=1.0, memory_bytes=0)
        backend.submit(Assignment(attempt_id=name, shard=shard, pool=GPUS, payload=payload))

    def told(name):
        path = tmp_path / name
        return path.read_text() if path.exists() else ""

    submit("first")
    submit("second")
    seen = {name: until(lambda name=name: told(name)) for name in ("first", "second")}
    assert sorted(seen.values()) == ["0", "1"]
    (tmp_path / "first").unlink()
    (event,) = until(lambda: backend.wait(1.0))
    assert event.attempt_id == "first"
    submit("third")
    assert until(lambda: told("third")) == seen["first"]

"""The probe of stores on real servers: right ones are cleared, wrong ones are found out and named."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.care.collection import mark, sweep_away, sweeping
from orchestrator.care.doctor import check_store
from orchestrator.care.garbage import DAY, Kind, Limits
from orchestrator.errors import NotPermitted
from orchestrator.probes.checks import State, exit_code
from orchestrator.probes.ground import Effort
from orchestrator.spec import StoreSpec
from orchestrator.stores.multipart import uploads_of
from orchestrator.stores.opening import open_store

QUICK = Effort(rounds=5, racers=6, keys=40, large_bytes=17 << 20)


def named(checks):
    return {check.name: check for check in checks}


def use(monkeypatch, server):
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def rclone(tmp_path_factory):
    """A server that answers 200 to every conditional write, whatever its condition: an endpoint with one bucket."""
    folder = tmp_path_factory.mktemp("rclone")
    (folder / "files" / "bucket").mkdir(parents=True)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    program = Path(sys.executable).parent / "rclone"
    command = [
        program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", "fleetkey,fleetsecret", "--config", "/dev/null",
        "--cache-dir", folder / "cache", folder / "files",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        _wait_for(endpoint, process)
        yield endpoint
    finally:
        process.kill()
        process.wait()


def _wait_for(endpoint, process, seconds=30.0):
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(endpoint, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            assert process.poll() is None, "rclone ended"
            assert time.monotonic() < end, "rclone does not answer"
            time.sleep(0.05)


def test_a_right_store_is_cleared_and_left_empty(store_spec, store):
    checks = check_store(store_spec, QUICK)
    assert {check.state for check in checks} == {State.OK}, checks
    assert exit_code(checks) == 0
    assert list(store.list("")) == []


@pytest.mark.s3
def test_a_server_that_ignores_conditions_is_found_out(rclone, monkeypatch):
    for name, value in (("AWS_ACCESS_KEY_ID", "fleetkey"), ("AWS_SECRET_ACCESS_KEY", "fleetsecret")):
        monkeypatch.setenv(name, value)
    checks = named(check_store(StoreSpec(url="s3://bucket/p", endpoint=rclone), QUICK))
    assert checks["create-only"].state is State.BROKEN
    assert checks["create-only"].seen.startswith("6 of 6 racers were told that they created the same key")
    assert "in 5 of 5 rounds" in checks["create-only"].seen
    assert "UNSAFE" in checks["create-only"].advice
    assert checks["swap"].state is State.BROKEN
    assert "replaced what was there" in checks["swap"].seen
    assert checks["listing"].state is State.OK
    assert checks["whole bytes"].state is State.OK
    assert exit_code(checks.values()) == 4


@pytest.mark.s3
def test_uploads_that_nobody_completed_are_seen_only_where_they_are_looked_for(s3_store):
    store = s3_store("some/prefix")
    uploads = uploads_of(store)
    begun = uploads.begin(f"artifacts/{'a' * 64}/model.safetensors", b"half of it")
    elsewhere = uploads.begin("elsewhere/x", b"somebody else's")
    assert list(store.list("")) == []
    (found,) = uploads.unfinished("artifacts/")
    assert (found.key, found.upload_id) == (begun.key, begun.upload_id)
    assert uploads.bytes_of(found) == 10
    now = time.time()
    assert mark(store, None, Limits(at=now)).doomed == ()
    late = mark(store, None, Limits(at=now + 8 * DAY))
    assert [(one.thing.kind, one.thing.bytes) for one in late.doomed] == [(Kind.UPLOAD, 10)]
    with sweeping(store) as right:
        swept = sweep_away(right, late)
    assert len(swept.removed) == 1
    assert [one.key for one in uploads.unfinished("")] == [elsewhere.key]
    uploads.abandon(begun)


@pytest.mark.s3
def test_artifacts_are_swept_on_a_real_server_as_in_a_directory(s3_store, keep_pruned_on, monkeypatch):
    store = s3_store("p")
    key, kept = keep_pruned_on(store, 1)
    _, lost = keep_pruned_on(store, 2, with_result=False)
    later = Limits(at=time.time() + 8 * DAY)
    found = mark(store, None, later)
    assert [one.thing.name for one in found.doomed] == [lost]
    with sweeping(store) as right:
        sweep_away(right, found)
    left = {found.key.split("/")[1] for found in store.list("artifacts/")}
    assert left == {kept}
    assert store.stat(key)


@pytest.fixture
def keep_pruned_on(tmp_path):
    """As `keep_pruned` of the integration tests: an artifact, and the result that points to it."""
    import hashlib

    from orchestrator import artifacts
    from orchestrator.tables import listing, results

    def make(store, number, with_result=True):
        folder = tmp_path / f"pruned{number}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes([number]) * 100)
        digest, total = artifacts.upload_artifact(store, folder)
        unit = hashlib.sha256(f"{number}".encode()).hexdigest()
        key = listing.result_key("prune", unit)
        note = dict.fromkeys(("run_id", "registry", "model", "version", "model_digest", "recipe"), "x")
        tables = {"artifacts": [{"uri": "", "digest": digest, "bytes": total}]}
        if with_result:
            store.put(key, results.encode("prune", tables, {**note, "unit_key": unit, "task": "prune"}))
        return key, digest

    return make


def test_a_server_that_is_not_there_is_unreachable(monkeypatch, moto):
    use(monkeypatch, moto)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        checks = check_store(StoreSpec(url="s3://fleet/p", endpoint=endpoint), replace(QUICK, racers=2))
    assert [check.state for check in checks] == [State.UNREACHABLE]
    assert exit_code(checks) == 69
    assert "fleetsecret" not in repr(checks)


@pytest.mark.s3
def test_wrong_credentials_are_not_permitted(ceph, monkeypatch):
    bucket = ceph.make_bucket()
    use(monkeypatch, replace(ceph, secret="wrong"))
    spec = StoreSpec(url=f"s3://{bucket}", endpoint=ceph.endpoint)
    checks = check_store(spec, replace(QUICK, racers=2))
    assert [check.state for check in checks] == [State.DENIED]
    assert exit_code(checks) == 77
    with pytest.raises(NotPermitted):
        open_store(spec).get("x")


def test_a_bucket_that_is_not_there_is_named(moto, monkeypatch):
    use(monkeypatch, moto)
    spec = StoreSpec(url="s3://no-such-bucket/p", endpoint=moto.endpoint)
    (check,) = check_store(spec, replace(QUICK, racers=2))
    assert check.state is State.BROKEN
    assert "NoSuchBucket" in check.seen

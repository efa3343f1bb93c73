"""Twelve planted secrets, hundreds of forced failures: not one byte of any of them leaves the process."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from prometheus_client import generate_latest

from orchestrator import worker
from orchestrator.backends.children import _run
from orchestrator.controller import Signals
from orchestrator.domain import Failure
from orchestrator.errors import Damaged, RegistryError
from orchestrator.execution import RunOptions, execute
from orchestrator.ports import AttemptEnded
from orchestrator.spec import load_fleet
from orchestrator.survey import survey
from orchestrator.tables import records
from orchestrator.tables.querying import TABLES, query
from orchestrator.watching.run_metrics import RunMetrics
from tasks.contract import BadInput

COMMAND = Path(sys.executable).parent / "prunefleet"
IN_ENVIRONMENT = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PRUNEFLEET_SIGNING_KEY_PASSWORD",
    "RAY_AUTH_TOKEN",
)


@pytest.fixture
def canaries(tmp_path, monkeypatch):
    """Name -> secret; each is where the library that uses it would look for it."""
    draw = random.Random(7)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/"

    def secret():
        return "".join(draw.choice(letters) for _ in range(32))

    home = tmp_path / "home"
    found = {name: secret() for name in IN_ENVIRONMENT}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    for name, place in (("HTTPS_PROXY", "127.0.0.1:9"), ("AWS_ENDPOINT_URL", "127.0.0.1:9")):
        found[name] = secret().replace("/", "x")
        monkeypatch.setenv(name, f"http://user:{found[name]}@{place}")
    files = {
        ".aws/credentials": "[default]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = {}\n",
        ".netrc": "machine registry login user password {}\n",
        ".cache/huggingface/token": "{}\n",
    }
    for name, text in files.items():
        found[name] = secret()
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text.format(found[name]))
    monkeypatch.setenv("HOME", str(home))
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "NETRC", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert len({*found.values()}) == 12
    return found


def errors_with(secret):
    """What tasks, plug-ins and libraries raise when they quote what they were given."""
    return (
        BadInput("the data cannot be read", why=f"the server said {secret}", do="Look.", file="data.jsonl"),
        Damaged(f"http://user:{secret}@store/bucket/key is damaged"),
        RegistryError(f"GET https://hub/api?X-Amz-Signature={quote(secret, safe='')}&x=1: 500"),
        RuntimeError({"headers": {"Authorization": f"Bearer {secret}"}}),
        KeyError(secret),
        OSError(5, f"cannot open https://host/path?token={secret}"),
        ValueError(f"could not convert string to float: {secret!r}"),
        EndpointConnectionError(endpoint_url=f"https://user:{quote(secret, safe='')}@s3.example/b"),
        ClientError(
            {"Error": {"Code": "InvalidToken", "Message": f"token {secret} has expired"}}, "PutObject"
        ),
        subprocess.CalledProcessError(1, ["curl", "-u", f"user:{secret}", "https://host"]),
        MemoryError(f"can't allocate memory for {secret}"),
        AssertionError(f"line 1\nline 2 {secret}"),
    )


class LeapingClock:
    """Waits for nothing: whoever sleeps finds that the time has passed."""

    def __init__(self):
        self.ahead = 0.0

    def now(self):
        return time.time() + self.ahead

    def sleep(self, seconds):
        self.ahead += seconds


class FailingBackend:
    """Runs every unit here, and lets each fail in another way; every tenth attempt dies as a whole."""

    def __init__(self, pools, secrets, clock):
        self.clock = clock
        self.pools, self.secrets, self.ended, self.count = pools, secrets, [], 0

    def capacity(self):
        return {name: pool.slots for name, pool in self.pools.items()}

    def largest_nodes(self):
        return {}

    def _error(self):
        errors = errors_with(self.secrets[self.count % len(self.secrets)])
        self.count += 1
        return errors[(self.count // len(self.secrets)) % len(errors)]

    def submit(self, assignment):
        answer: object

        def fail(*_):
            raise self._error()

        if self.count % 10 == 9:
            answer = through_a_child(fail)
        else:
            answer = tuple(worker.guarded(unit, fail) for unit in assignment.payload.units)
        event = {"failure": answer} if isinstance(answer, Failure) else {"reports": answer}
        self.ended.append(AttemptEnded(attempt_id=assignment.attempt_id, wall_seconds=0.01, **event))

    def wait(self, seconds):
        self.clock.sleep(0 if self.ended else seconds)
        ended, self.ended = self.ended, []
        return ended

    def cancel(self, attempt_id, *, force):
        raise AssertionError("nothing runs long enough")

    def close(self):
        pass


def through_a_child(fail):
    """What a child process would send of a body that raises."""

    class Pipe:
        def send(self, answer):
            self.answer = answer

        def close(self):
            pass

    pipe = Pipe()
    _run(fail, None, pipe, dict(os.environ))
    return pipe.answer[0]


def hits(data: bytes, secrets):
    """The names of the secrets that the bytes hold, as they are or escaped."""
    forms = {name: {s.encode(), quote(s, safe="").encode()} for name, s in secrets.items()}
    return [name for name, some in forms.items() if any(form in data for form in some)]


@pytest.mark.parametrize("failures", [250, pytest.param(1000, marks=pytest.mark.soak)])
def test_twelve_secrets_and_many_failures_leave_no_trace(
    tmp_path, tiny_model, canaries, capfd, monkeypatch, failures
):
    monkeypatch.setattr("orchestrator.backends.children._follow", lambda: None)
    tiny_model(tmp_path / "zoo" / "mlp" / "1", "MLPForClassification")
    recipes = "".join(
        f"  r{n}: {{prune: {{criterion: random, amount: 0.5}}, seed: {n}}}\n" for n in range(failures)
    )
    text = (
        f"version: 1\nname: night\nstore: ./store\nregistries:\n  zoo: {{kind: directory, path: ./zoo}}\n"
        f"recipes:\n{recipes}pools: {{cpu: {{cpus: 4}}}}\n"
        f"# somebody left {canaries['HF_TOKEN']} here\n"
    )
    fleet = load_fleet(text, "fleet.yaml", PurePosixPath(tmp_path))
    seen = survey(fleet, text, time.time())
    assert len(seen.plan.todo) == failures
    metrics = RunMetrics(seen.pools)
    secrets = list(canaries.values())
    made, clock = [], LeapingClock()
    monkeypatch.setattr("orchestrator.execution.SystemClock", lambda: clock)

    def connect(pools, body):
        made.append(FailingBackend(pools, secrets, clock))
        return made[0]

    options = RunOptions(cache_root=str(tmp_path / "cache"))
    summary = execute(seen, connect, options, Signals(), watchers=(metrics,))
    assert summary.counts["failed"] + summary.counts["quarantined"] == failures
    assert made[0].count >= failures * 9 // 10
    attempts = records.read_records(seen.store, "attempts")
    assert attempts.table.num_rows >= failures
    assert sum("***" in error for error in attempts.table["error"].to_pylist()) > failures // 2
    said = capfd.readouterr()
    found = {
        "stdout": said.out.encode(),
        "stderr": said.err.encode(),
        "metrics": generate_latest(metrics.registry),
        **{
            f"table {name}": str(query(seen.store, f"SELECT * FROM {name}").to_pylist()).encode()
            for name in TABLES
        },
    }
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            found[str(path)] = path.read_bytes()
            if path.suffix == ".parquet":
                found[f"{path} unpacked"] = str(pq.read_table(path).to_pylist()).encode()
            if path.suffix == ".arrow":
                found[f"{path} unpacked"] = str(pa.ipc.open_file(path).read_all().to_pylist()).encode()
    assert any(name.endswith("report.html") for name in found)
    assert {name: leaked for name, data in found.items() if (leaked := hits(data, canaries))} == {}


def test_the_search_would_find_a_secret(canaries):
    for name, secret in canaries.items():
        assert hits(f"xx{secret}yy".encode(), canaries) == [name]
        assert name in hits(quote(secret, safe="").encode(), canaries)


@pytest.mark.parametrize(
    ("store", "code"),
    [
        ("s3://user:{AWS_SESSION_TOKEN}@bucket/prefix", 2),
        ('{{url: "s3://bucket/p", endpoint: "http://user:{HF_TOKEN}@127.0.0.1:9"}}', 2),
        ('{{url: "s3://bucket/p", endpoint: "http://127.0.0.1:9", region: ["{HF_TOKEN}"]}}', 2),
    ],
)
def test_commands_that_fail_say_no_secret(tmp_path, canaries, store, code):
    (tmp_path / "zoo").mkdir()
    (tmp_path / "fleet.yaml").write_text(
        f"version: 1\nname: night\nstore: {store.format(**canaries)}\nregistries:\n"
        "  zoo: {kind: directory, path: ./zoo}\nrecipes:\n  r: {prune: {criterion: magnitude, amount: 0.5}}\n"
    )
    done = subprocess.run(
        [str(COMMAND), "plan", "fleet.yaml"], cwd=tmp_path, capture_output=True, timeout=120
    )
    assert done.returncode == code, done.stderr.decode()
    assert hits(done.stdout + done.stderr, canaries) == []
    assert re.search(rb"\w", done.stderr)

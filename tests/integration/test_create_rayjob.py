"""The CronJob's script against an API server of TLS and tokens: one RayJob a tick, however often the tick comes."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from servers.certificates import certificate

SCRIPT = Path(__file__).parents[2] / "deploy" / "kubernetes" / "create_rayjob.py"
SCHEDULER = SCRIPT.parent / "overlays" / "nightly" / "scheduler.yaml"
TOKEN = "the-token-of-the-account"


class ApiServer(BaseHTTPRequestHandler):
    """Keeps RayJobs by name, for those who have the token."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        jobs, name = self.server.jobs, body["metadata"]["name"]
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._answer(401)
        elif self.path != f"/apis/ray.io/v1/namespaces/{body['metadata']['namespace']}/rayjobs":
            self._answer(404)
        elif name in jobs:
            self._answer(409)
        else:
            jobs[name] = body
            self._answer(201)

    def _answer(self, status):
        data = json.dumps({"code": status}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def api(tmp_path):
    certificate(tmp_path)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), ApiServer)
    server.jobs = {}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.crt", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def tick(api, tmp_path, name):
    (tmp_path / "rayjob.yaml").write_text(yaml.safe_load(SCHEDULER.read_text())["data"]["rayjob.yaml"])
    environment = {
        **os.environ,
        "JOB_NAME": name,
        "NAMESPACE": "prunefleet",
        "SERVICE_ACCOUNT": str(tmp_path),
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(api.server_port),
    }
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "rayjob.yaml")],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_a_tick_makes_one_job_and_its_repetition_none(api, tmp_path):
    first, again, next_one = (tick(api, tmp_path, name) for name in ("night-291", "night-291", "night-292"))
    assert [done.returncode for done in (first, again, next_one)] == [0, 0, 0]
    assert "created" in first.stdout
    assert "is there already" in again.stdout
    assert set(api.jobs) == {"night-291", "night-292"}
    assert api.jobs["night-291"]["kind"] == "RayJob"
    assert api.jobs["night-291"]["spec"]["backoffLimit"] == 0


def test_a_refusal_is_an_error_and_says_no_token(api, tmp_path):
    (tmp_path / "token").write_text("a-wrong-token")
    done = tick(api, tmp_path, "night-291")
    assert done.returncode == 1
    assert "401" in done.stderr
    assert "a-wrong-token" not in done.stdout + done.stderr
    assert api.jobs == {}


def test_a_long_name_keeps_its_end_which_tells_the_ticks_apart(api, tmp_path):
    for number in (1, 2):
        assert tick(api, tmp_path, f"{'n' * 58}-{number}").returncode == 0
    assert len(api.jobs) == 2
    assert all(len(name) <= 47 for name in api.jobs)

"""The CronJob's script against an API server of TLS and tokens: one RayJob at a time, and only for a slot that is due."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from servers.certificates import certificate

SCRIPT = Path(__file__).parents[2] / "deploy" / "kubernetes" / "create_rayjob.py"
SCHEDULER = SCRIPT.parent / "overlays" / "nightly" / "scheduler.yaml"
PLACE = "/apis/ray.io/v1/namespaces/prunefleet/rayjobs"
DUE, NOT_DUE, UNREACHABLE = 6, 0, 69
TOKEN = "the-token-of-the-account"


class ApiServer(BaseHTTPRequestHandler):
    """Keeps RayJobs by name, for those who have the token."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        jobs, name = self.server.jobs, body["metadata"]["name"]
        if self._is_refused() or self.path != PLACE or body["metadata"]["namespace"] != "prunefleet":
            self._answer(401 if self._is_refused() else 404)
        elif name in jobs:
            self._answer(409)
        else:
            body["metadata"]["creationTimestamp"] = f"2026-11-22T00:00:{len(jobs):02d}Z"
            jobs[name] = body
            self._answer(201)

    def do_GET(self):
        url = urlsplit(self.path)
        if self._is_refused() or url.path != PLACE:
            return self._answer(401 if self._is_refused() else 404)
        wanted = dict(one.split("=") for one in parse_qs(url.query)["labelSelector"][0].split(","))
        found = [
            one for one in self.server.jobs.values() if wanted.items() <= one["metadata"]["labels"].items()
        ]
        return self._answer(200, {"items": found})

    def do_DELETE(self):
        place, _, name = self.path.rpartition("/")
        if self._is_refused() or place != PLACE:
            return self._answer(401 if self._is_refused() else 404)
        return self._answer(200 if self.server.jobs.pop(name, None) else 404)

    def _is_refused(self):
        return self.headers["Authorization"] != f"Bearer {TOKEN}"

    def _answer(self, status, value=None):
        data = json.dumps(value or {"code": status}).encode()
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


def tick(api, tmp_path, name, answer=DUE):
    """One run of the script, for which `prunefleet nightly --due` exits so."""
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
        [sys.executable, str(SCRIPT), str(tmp_path / "rayjob.yaml"), sys.executable, "-c", f"raise SystemExit({answer})"],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def end(api, name, status="Complete"):
    api.jobs[name]["status"] = {"jobDeploymentStatus": status}


def test_a_slot_that_is_due_makes_a_job_and_no_other_is_made_until_that_has_ended(api, tmp_path):
    assert "created" in tick(api, tmp_path, "night-291").stdout
    assert (api.jobs["night-291"]["kind"], api.jobs["night-291"]["spec"]["backoffLimit"]) == ("RayJob", 0)
    for status in ("Initializing", "Running", "Suspended"):
        end(api, "night-291", status)
        assert "night-291 has not ended" in tick(api, tmp_path, "night-292").stdout
    end(api, "night-291", "Failed")
    assert "created" in tick(api, tmp_path, "night-293").stdout
    assert set(api.jobs) == {"night-291", "night-293"}


def test_a_second_try_of_a_tick_finds_its_job(api, tmp_path):
    tick(api, tmp_path, "night-291")
    end(api, "night-291")
    done = tick(api, tmp_path, "night-291")
    assert (done.returncode, len(api.jobs)) == (0, 1)
    assert "is there already" in done.stdout


def test_where_no_slot_is_due_nothing_is_made_and_what_could_not_be_asked_is_an_error(api, tmp_path):
    assert tick(api, tmp_path, "night-291", NOT_DUE).returncode == 0
    assert tick(api, tmp_path, "night-292", UNREACHABLE).returncode == UNREACHABLE
    assert api.jobs == {}


def test_of_the_jobs_that_have_ended_the_last_few_are_kept_and_others_are_left_alone(api, tmp_path):
    for number in range(6):
        assert tick(api, tmp_path, f"night-{number}").returncode == 0
        end(api, f"night-{number}", ["Complete", "Failed"][number % 2])
    labels = {"app.kubernetes.io/name": "prunefleet"}
    api.jobs["mine"] = {
        "metadata": {"name": "mine", "labels": labels, "creationTimestamp": "2020-01-01T00:00:00Z"}
    }
    end(api, "mine")
    assert tick(api, tmp_path, "night-6", NOT_DUE).returncode == 0
    assert set(api.jobs) == {"night-3", "night-4", "night-5", "mine"}


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
        for name in api.jobs:
            end(api, name)
    assert len(api.jobs) == 2
    assert all(len(name) <= 47 for name in api.jobs)

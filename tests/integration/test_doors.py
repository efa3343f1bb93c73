"""What doctor finds at the door of each cluster that a fleet names, against servers that answer as Ray does."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath

import pytest

from orchestrator.care.doctor import examine
from orchestrator.probes.checks import State
from orchestrator.probes.doors import check_doors
from orchestrator.probes.ground import Effort
from orchestrator.spec import load_fleet

TOKEN = "a-token-that-nobody-guesses"
FLEET = """
version: 1
name: doors
store: ./store
registries: {{zoo: {{kind: directory, path: ./zoo}}}}
recipes: {{half: {{match: {{registry: zoo}}, prune: {{criterion: magnitude, amount: 0.5}}}}}}
pools: {{cpu: {{cpus: 1}}}}
clusters:
  night: {{address: "{address}", pools: [cpu], token_env: NIGHT_TOKEN}}
"""


@contextmanager
def dashboard(token, status=404):
    """A server that asks for a token, unless it is None, and knows no job; its address and the paths it was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            is_known = token is None or self.headers.get("Authorization") == f"Bearer {token}"
            code = 401 if not is_known else 200 if self.path == "/api/jobs/" else status
            body = json.dumps([]).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def fleet_at(address, root="/home"):
    return load_fleet(FLEET.format(address=address), "fleet.yaml", PurePosixPath(root))


def check(address, environment):
    [found] = check_doors(fleet_at(address), environment)
    assert (found.area, found.name) == ("cluster night", "Jobs API")
    assert TOKEN not in f"{found.seen}{found.follows}{found.advice}"
    return found


def test_a_cluster_that_takes_our_token_and_no_strangers_is_well():
    with dashboard(TOKEN) as (address, asked):
        found = check(address, {"NIGHT_TOKEN": TOKEN})
    assert found.state is State.OK
    assert "refuses whoever has none" in found.seen
    assert set(asked) == {"/api/jobs/", "/api/jobs/prunefleet-doctor"}


def test_one_on_loopback_without_a_token_is_well_and_said_to_be_open():
    with dashboard(None) as (address, _):
        found = check(address, {"NIGHT_TOKEN": TOKEN})
    assert found.state is State.OK
    assert "also without a token" in found.seen


def test_a_wrong_token_is_not_permitted():
    with dashboard(TOKEN) as (address, _):
        found = check(address, {"NIGHT_TOKEN": "another"})
    assert found.state is State.DENIED
    assert "refuses its token" in found.seen


def test_a_token_that_is_not_set_is_named():
    with dashboard(TOKEN) as (address, asked):
        found = check(address, {})
    assert found.state is State.BROKEN
    assert "NIGHT_TOKEN is not set here" in found.seen
    assert asked == []


def test_one_beyond_this_machine_is_not_spoken_to_in_clear():
    found = check("http://192.0.2.7:8265", {"NIGHT_TOKEN": TOKEN})
    assert found.state is State.DENIED
    assert "travel in clear" in found.seen


def test_one_that_is_not_there_is_unreachable():
    with dashboard(TOKEN) as (address, _):
        pass
    found = check(address, {"NIGHT_TOKEN": TOKEN})
    assert found.state is State.UNREACHABLE
    assert found.advice


@pytest.mark.parametrize("status", [302, 500])
def test_what_does_not_answer_as_ray_does_is_broken(status):
    with dashboard(TOKEN, status) as (address, _):
        found = check(address, {"NIGHT_TOKEN": TOKEN})
    assert found.state is State.BROKEN
    assert str(status) in found.seen


def test_doctor_looks_at_every_door_and_at_none_where_there_is_none(tmp_path):
    (tmp_path / "zoo").mkdir()
    with dashboard(TOKEN) as (address, _):
        fleet = fleet_at(address, str(tmp_path))
        areas = [found.area for found in examine(fleet, Effort(rounds=1, racers=2), None)]
    assert areas.count("cluster night") == 1
    assert list(check_doors(fleet.model_copy(update={"clusters": {}}), {})) == []

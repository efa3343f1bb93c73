"""What is sent to a cluster, to whom, and what is refused before anything is; the Jobs API is a small server on loopback."""

from __future__ import annotations

import json
import shlex
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import PurePosixPath

import pytest

from orchestrator.clusters import runboard, submission
from orchestrator.clusters.jobs import Jobs, token_of
from orchestrator.errors import NotPermitted, SpecError, UnknownRun, Unreachable, UsageError
from orchestrator.schedule.window import StopAt
from orchestrator.simulation.store import MemoryStore
from orchestrator.spec import load_fleet
from orchestrator.specs.clusters import ClusterSpec

FLEET = """
version: 1
name: far
store: s3://bucket/prefix
registries: {zoo: {kind: directory, path: ./zoo}, shared: {kind: directory, path: /mnt/zoo}}
recipes: {quick: {prune: {criterion: magnitude, amount: 0.5}}}
pools: {cpu: {cpus: 2}}
clusters: {far: {address: "https://ray.example:8265", pools: [cpu]}}
"""


class Api(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def answer(self):
        server = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server.asked.append((self.command, self.path, dict(self.headers), body))
        if self.headers.get("Authorization") != "Bearer right":
            return self.send(401, {})
        if self.path == "/api/jobs/" and self.command == "POST":
            name = json.loads(body)["submission_id"]
            if name in server.jobs:
                return self.send(500, {"error": f"Job with submission_id {name} already exists."})
            server.jobs[name] = "RUNNING"
            return self.send(200, {"submission_id": name})
        if self.path == "/api/elsewhere":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/")
            return self.end_headers()
        name = self.path.removeprefix("/api/jobs/")
        return self.send(200, {"status": server.jobs[name]}) if name in server.jobs else self.send(404, {})

    def send(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words):
        """Nothing."""


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as made:
        made.asked, made.jobs = [], {}
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def store():
    return MemoryStore(now=lambda: 0.0)


def way(server, token="right"):
    spec = ClusterSpec(address=f"http://127.0.0.1:{server.server_port}", pools=("cpu",), token_env="T")
    return Jobs.of("here", spec, {"T": token})


def test_a_job_is_started_once_and_again_only_when_it_ended_and_the_run_did_not(server, store):
    def send():
        return submission.send(way(server), store, "r", "here", "true", {})

    assert (send().submission_id, send().is_new) == ("r-here-1", False)
    server.jobs["r-here-1"] = "FAILED"
    assert (send().submission_id, len(server.jobs)) == ("r-here-2", 2)
    assert submission.latest(way(server), "r", "here") == "r-here-2"
    server.jobs["r-here-2"] = "SUCCEEDED"
    store.put("runs/r/closed.json", b'{"outcome": "carried over"}')
    assert (send().submission_id, len(server.jobs)) == ("r-here-3", 3)
    server.jobs["r-here-3"] = "SUCCEEDED"
    store.put("runs/r/closed.json", b'{"outcome": "done"}')
    assert (send().is_new, len(server.jobs)) == (False, 3)


def test_when_a_run_is_to_start_nothing_more_is_what_the_last_submission_said(store):
    assert submission.limited(store, "r") is None
    for stop in (
        StopAt(at=1e9 + 0.5, reason="the window has ended"),
        StopAt(at=5, reason="the budget"),
        None,
    ):
        submission.limit(store, "r", stop)
        assert submission.limited(store, "r") == stop


@pytest.mark.parametrize(
    "wrong", [b"{", b"[]", b"{}", b'{"stop": 5}', b'{"stop": {"at": "x", "reason": "y"}}']
)
def test_limits_that_cannot_be_read_are_not_taken_for_none(store, wrong):
    store.put(submission.limits_key("r"), wrong)
    with pytest.raises(SpecError, match="limits.json"):
        submission.limited(store, "r")


def test_the_token_is_in_no_body_and_a_wrong_one_is_refused(server, store):
    submission.send(way(server), store, "r", "here", "true", {})
    assert not any(b"right" in body for *_, body in server.asked)
    with pytest.raises(NotPermitted, match="clusters.here.token_env"):
        way(server, "wrong").status("r-here-1")
    assert not way(server).answers_strangers()


def test_no_redirect_is_followed_with_the_token(server):
    status, _ = way(server)._ask("GET", "/api/elsewhere", None, token="right")
    assert status == 302


def test_a_cluster_beyond_this_machine_needs_https():
    jobs = Jobs.of(
        "far", ClusterSpec(address="http://ray.example:8265", pools=("cpu",)), {"RAY_AUTH_TOKEN": "t"}
    )
    with pytest.raises(NotPermitted, match="in clear"):
        jobs.check_door({})


def test_who_does_not_answer_is_named():
    jobs = Jobs.of("gone", ClusterSpec(address="http://127.0.0.1:9", pools=("cpu",)), {"RAY_AUTH_TOKEN": "t"})
    with pytest.raises(Unreachable, match="cluster gone: http://127.0.0.1:9 does not answer"):
        jobs.status("x")


def test_tokens_come_from_the_environment_or_a_file_and_what_is_missing_is_named(tmp_path):
    file = tmp_path / "token"
    file.write_text("abc\n")
    plain = {"address": "https://ray.example", "pools": ("cpu",)}
    assert token_of("c", ClusterSpec(**plain, token_file=str(file)), {}) == "abc"
    assert token_of("c", ClusterSpec(**plain), {"RAY_AUTH_TOKEN_PATH": str(file)}) == "abc"
    with pytest.raises(UsageError, match=r"clusters\.c\.token_env: NONE is not set"):
        token_of("c", ClusterSpec(**plain, token_env="NONE"), {})
    file.write_text("")
    with pytest.raises(UsageError, match="holds none"):
        token_of("c", ClusterSpec(**plain, token_file=str(file)), {})


def test_relative_paths_are_out_of_a_far_clusters_reach():
    fleet = load_fleet(FLEET, "fleet.yaml", PurePosixPath("/home"))
    (problem,) = submission.out_of_reach(fleet, FLEET, "far")
    assert problem.startswith("registries.zoo.path: ")
    near = FLEET.replace("https://ray.example", "http://127.0.0.1")
    assert submission.out_of_reach(load_fleet(near, "f", PurePosixPath("/home")), near, "far") == []


def test_a_run_keeps_the_fleet_file_that_it_was_submitted_with(store):
    submission.record(store, "r", FLEET, PurePosixPath("/home"), "fleet.yaml")
    submission.record(store, "r", FLEET, PurePosixPath("/home"), "fleet.yaml")
    assert submission.recorded(store, "r")[0].registries["zoo"].path == "/home/zoo"
    with pytest.raises(UsageError, match="another fleet file"):
        submission.record(store, "r", FLEET + "#", PurePosixPath("/home"), "fleet.yaml")
    with pytest.raises(UsageError, match="no run id"):
        submission.record(store, "../r", FLEET, PurePosixPath("/home"), "fleet.yaml")
    with pytest.raises(UnknownRun):
        submission.recorded(store, "other")


def test_the_entrypoint_is_one_command_whatever_stands_in_the_fleet_file():
    text = FLEET.replace("pools: [cpu]}", 'pools: [cpu], python: "/a b/python; rm"}')
    fleet = load_fleet(text, "f", PurePosixPath("/home"))
    words = shlex.split(submission.entrypoint(fleet.clusters["far"], "r", "far", fleet))
    assert words == [
        "/a b/python; rm", "-m", "orchestrator.cli", "join", "r", "--cluster", "far", "--store", "s3://bucket/prefix",
    ]  # fmt: skip


def test_the_package_is_the_same_every_time_and_holds_the_code():
    assert submission.packaged() == submission.packaged()
    with zipfile.ZipFile(BytesIO(submission.packaged()[1])) as archive:
        names = archive.namelist()
    assert "prunefleet/orchestrator/cli.py" in names
    assert "prunefleet/orchestrator/reports/templates/report.css" in names


def test_claims_are_won_once_and_taken_over_only_from_whom_they_were_seen_with(store):
    one, two, three = (runboard.Board(store, "r", name, threads=1) for name in ("one", "two", "three"))
    assert [one.claim("b"), two.claim("b")] == [True, False]
    for board in (two, three):
        board.look()
        assert board.claims == {"b": one.owner}
    assert [two.claim("b"), three.claim("b")] == [True, False]


def test_only_young_heartbeats_count_by_the_stores_clock():
    now = [0.0]
    store = MemoryStore(now=lambda: now[0])
    one, two = (runboard.Board(store, "r", name, threads=1) for name in ("one", "two"))
    told = {"state": "running", "slots": 2, "load": 1.5, "begun": []}
    one.beat(told)
    now[0] = 50.0
    two.beat(told)
    assert [peer.cluster for peer in two.peers()] == ["one"]
    now[0] = 51.0
    two.beat(told)
    assert two.peers() == ()
    again = runboard.Board(store, "r", "one", threads=1)
    assert not again.is_ousted(), "it has not spoken yet: its predecessor has not taken its place"
    again.beat(told)
    assert one.is_ousted()
    assert not again.is_ousted()


def test_a_request_to_stop_is_for_all_or_for_some_and_can_be_lifted(store):
    one, two = (runboard.Board(store, "r", name, threads=1) for name in ("one", "two"))
    runboard.ask_to_stop(store, "r", "enough", ["one"])
    assert (one.asked_to_stop(), two.asked_to_stop()) == ("enough", "")
    runboard.ask_to_stop(store, "r", "all")
    assert two.asked_to_stop() == "all"
    runboard.lift_stop(store, "r", ["one"], ["two"])
    assert (one.asked_to_stop(), two.asked_to_stop()) == ("", "all")


def test_what_ended_elsewhere_is_heard_once(store):
    from orchestrator.domain import Failure, FailureClass

    one, two = (runboard.Board(store, "r", name, threads=1) for name in ("one", "two"))
    one.tell(["a"], {"b": Failure(failure_class=FailureClass.MEMORY, error="too large")})
    (heard,) = two.heard()
    assert heard.done == ("a",)
    assert heard.failed["b"].error == "too large"
    assert list(two.heard()) == list(one.heard()) == []

"""One night per slot: triggers in parallel, late, killed; what changed, kept and compared; who is told, and with what signature."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orchestrator import leases, nightrecords, notify
from orchestrator.cli import command_line
from orchestrator.controller import Signals
from orchestrator.domain import Pool
from orchestrator.due import Duty
from orchestrator.errors import Unreachable
from orchestrator.morning import Kind
from orchestrator.nightly import EXIT_FAILED, EXIT_INTERRUPTED, Watch, nightly
from orchestrator.nightspec import NotifySpec, ScheduleSpec
from orchestrator.reportdata import ReportData
from orchestrator.simulation.store import Flaw, MemoryStore
from orchestrator.stores.local import LocalStore

COMMAND = Path(sys.executable).parent / "prunefleet"
SCHEDULE = ScheduleSpec(at="01:00", window="5h")
DAY = 86_400.0


def moment(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


ONE = moment("2026-11-22T01:00")


@dataclass
class Clock:
    at: float = ONE
    slept: float = 0.0
    most: float = 1e6
    on_sleep: object = None

    def now(self):
        return self.at

    def sleep(self, seconds):
        self.at += seconds
        self.slept += seconds
        assert self.slept < self.most
        if self.on_sleep:
            self.on_sleep()


@dataclass
class Ended:
    run_id: str = "r1"
    exit_code: int = 0
    outcome: str = "done"
    carried_over: int = 0
    stop_reason: str = ""
    told: ReportData = field(default_factory=lambda: told())


def told(chains=(), failures=(), impossible=(), units=()):
    verdicts = [
        {
            "unit_key": one["units"][0],
            "gate": "overall",
            "slice": "all",
            "verdict": one["verdict"],
            "limit": 0.1,
        }
        for one in chains
    ]
    return ReportData(
        run={"run_id": "r1"},
        verdicts=verdicts,
        chains=list(chains),
        failures=list(failures),
        impossible=list(impossible),
        units=list(units),
    )


def chain(model="lm", version="1", recipe="half", verdict="pass", state="done"):
    return {
        "registry": "zoo", "model": model, "version": version, "recipe": recipe, "state": state, "verdict": verdict,
        "units": (f"{model} {recipe}",), "confidence": 0.95,
    }  # fmt: skip


class Runs:
    """Carries nights out, and remembers with which limits."""

    def __init__(self, *ends):
        self.ends, self.stops = list(ends), []

    def __call__(self, stop, signals):
        self.stops.append(stop)
        end = self.ends.pop(0) if self.ends else Ended()
        if isinstance(end, Exception):
            raise end
        return end(stop, signals) if callable(end) else end


@pytest.fixture
def store():
    return MemoryStore()


def watch(store, at=ONE, **more):
    return Watch(store=store, fleet="demo", schedule=more.pop("schedule", SCHEDULE), clock=Clock(at), **more)


def test_a_night_runs_once_a_slot_and_leaves_its_record_its_reports_and_no_lease(store):
    run = Runs()
    first = nightly(watch(store, trigger="cron"), run, Signals())
    again = nightly(watch(store, at=ONE + 60), run, Signals())
    assert (first.exit_code, again.exit_code, again.due.duty) == (0, 0, Duty.DONE)
    (stop,) = run.stops
    assert stop.at == ONE + 5 * 3600
    record = nightrecords.read_closed(store, "demo", "2026-11-22T0100")
    assert (record["trigger"], record["tries"], record["run_id"], record["stands"]) == ("cron", 1, "r1", True)
    for page in ("report.html", "report.md", "report.json"):
        assert nightrecords.read_page(store, "demo", "2026-11-22T0100", page)
    assert leases.holder(store, "nightly-demo").owner == leases.NOBODY
    assert nightrecords.night_of(record) == first.morning.night


def test_a_trigger_whose_clock_is_ahead_waits_for_its_slot(store):
    nightly(watch(store, at=ONE - DAY), Runs(), Signals())
    early = watch(store, at=ONE - 90)
    answer = nightly(early, Runs(), Signals())
    assert answer.morning.night.slot == "2026-11-22T0100"
    assert early.clock.slept >= 89.9


def test_the_budget_ends_a_night_before_its_window(store):
    run = Runs()
    nightly(watch(store, schedule=ScheduleSpec(at="01:00", window="5h", budget_hours=2)), run, Signals())
    assert run.stops[0].at == ONE + 2 * 3600
    assert "budget of 2 hours" in run.stops[0].reason


def test_after_its_window_nothing_runs_and_the_next_night_tells_what_was_missed(store):
    nightly(watch(store, at=ONE - 2 * DAY), Runs(), Signals())
    late = nightly(watch(store, at=ONE - DAY + 6 * 3600), Runs(AssertionError("must not run")), Signals())
    assert (late.due.duty, late.exit_code, late.morning) == (Duty.MISSED, 0, None)
    answer = nightly(watch(store), Runs(), Signals())
    assert [item.subject for item in answer.morning.of(Kind.MISSED)] == ["2026-11-21T0100"]
    assert answer.morning.headline == "1 missed nights."
    assert answer.morning.is_problem


def test_triggers_in_parallel_run_one_night(tmp_path):
    store = LocalStore(tmp_path / "store")
    ran, gate = [], threading.Barrier(6)

    def run(stop, signals):
        ran.append(stop)
        return Ended()

    def trigger(number):
        own = watch(store, trigger=f"t{number}", lease_seconds=1e6, beat_seconds=0.05)
        gate.wait()
        return nightly(own, run, Signals())

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(trigger, range(6)))
    assert len(ran) == 1
    assert sum(answer.morning is not None for answer in answers) == 1
    assert {answer.exit_code for answer in answers} == {0}


def test_whoever_finds_a_living_night_leaves_and_whoever_finds_a_dead_one_goes_on(store):
    dead = leases.acquire(store, "nightly-demo", "dead", ONE, 150.0)
    nightrecords.begin_try(store, "demo", "2026-11-22T0100", "001-x", {})
    own = watch(store, at=ONE + 10)
    answer = nightly(own, Runs(), Signals())
    assert answer.morning.night.tries == 2
    assert 139 < own.clock.slept < 143, "it waited until the lease had run out"
    assert not leases.release(store, dead)

    alive = leases.acquire(store, "nightly-demo", "alive", ONE + DAY, 150.0)
    beating = watch(store, at=ONE + DAY + 10)

    def beat():
        nonlocal alive
        if beating.clock.slept > 30 and beating.clock.slept < 31.5:
            alive = leases.renew(store, alive, ONE + DAY + 40, 150.0)

    beating.clock.on_sleep = beat
    answer = nightly(beating, Runs(AssertionError("must not run")), Signals())
    assert (answer.exit_code, answer.morning) == (0, None)
    assert "overlap" in answer.reason
    assert beating.clock.slept < 40


def test_an_interrupted_night_leaves_its_slot_open_and_the_next_trigger_goes_on(store):
    run = Runs(
        Ended(exit_code=75, outcome="interrupted", stop_reason="stopped by SIGTERM"), Ended(run_id="r2")
    )
    first = nightly(watch(store), run, Signals())
    assert (first.exit_code, first.morning) == (EXIT_INTERRUPTED, None)
    second = nightly(watch(store, at=ONE + 600), run, Signals())
    assert (second.morning.night.run_id, second.morning.night.tries) == ("r2", 2)
    assert nightly(watch(store, at=ONE + 900), run, Signals()).due.duty is Duty.DONE


def test_a_night_that_cannot_be_run_is_tried_again_then_given_up_and_said_each_time_once(store, server):
    spec = {"ops": NotifySpec(url=server.url, when="problems")}
    run = Runs(*[Unreachable("the registry does not answer")] * 9)
    codes = [
        nightly(watch(store, at=ONE + 600 * number, notify=spec), run, Signals()).exit_code
        for number in range(5)
    ]
    assert codes == [69, 69, 69, EXIT_FAILED, 0]
    assert len(run.stops) == 3
    texts = [json.loads(body) for _, _, body in server.seen]
    assert [text["outcome"] for text in texts] == ["failed", "given up"]
    assert "the registry does not answer" in " ".join(texts[0]["lines"])
    record = nightrecords.read_closed(store, "demo", "2026-11-22T0100")
    assert (record["outcome"], record["stands"]) == ("given up", False)
    good = nightly(watch(store, at=ONE + DAY), Runs(), Signals())
    assert good.morning.of(Kind.MISSED) == ()


def test_who_lost_the_lease_closes_nothing(store):
    def taken(stop, signals):
        deadline = threading.Event()
        leases.acquire(store, "nightly-demo", "other", ONE + 1e7, 60.0)
        for _ in range(500):
            if signals.drain:
                break
            deadline.wait(0.02)
        return Ended()

    answer = nightly(watch(store, beat_seconds=0.01), Runs(taken), Signals())
    assert (answer.exit_code, answer.morning) == (EXIT_INTERRUPTED, None)
    assert "taken the night over" in answer.reason
    assert nightrecords.closed_slots(store, "demo") == ()
    assert leases.holder(store, "nightly-demo").owner == "other"


def test_a_store_without_conditions_is_named_unsafe_and_still_closes_its_slots():
    store = MemoryStore(flaws=(Flaw.IGNORES_IF_MATCH,))
    answer = nightly(watch(store), Runs(), Signals())
    assert any("UNSAFE" in notice for notice in answer.morning.night.notices)
    assert nightly(watch(store, at=ONE + 1), Runs(AssertionError("again")), Signals()).due.duty is Duty.DONE


def test_killed_at_any_write_the_slot_is_closed_once_and_told_once(server):
    """Every write of a night is, in turn, the last thing that its process does; then triggers come until all is quiet."""

    class Killed(BaseException):
        pass

    spec = {"ops": NotifySpec(url=server.url, when="always")}
    writes = 0
    for number in range(1, 60):
        store = MemoryStore()
        left = [number]

        def strike(key, before, after, left=left):
            if key.startswith("nights/"):
                left[0] -= 1
                if left[0] == 0:
                    raise Killed(key)

        server.seen.clear()
        store.written = strike
        try:
            nightly(watch(store, notify=spec), Runs(), Signals())
            killed = False
        except Killed:
            killed = True
        store.written = lambda key, before, after: None
        for minutes in (10, 20, 30):
            nightly(watch(store, at=ONE + 60 * minutes, notify=spec), Runs(), Signals())
        assert nightrecords.closed_slots(store, "demo") == ("2026-11-22T0100",)
        assert len(server.seen) <= 1, "a message is never sent twice"
        if not server.seen:
            found = nightly(watch(store, at=ONE + DAY, notify=spec), Runs(), Signals()).morning
            assert any("did not arrive" in notice for notice in found.night.notices)
        writes += killed
        if not killed:
            break
    assert writes >= 7


@pytest.mark.parametrize("seed", range(40))
def test_simulated_months_of_nights_with_lost_doubled_and_late_triggers(seed):
    """On one store, with the whole protocol: each slot that had a trigger is closed once, each other one told once."""
    chance = random.Random(seed)
    store = MemoryStore()
    schedule = ScheduleSpec(
        at="02:30", window="3h", time_zone=chance.choice(["Europe/Berlin", "Australia/Lord_Howe"])
    )
    begin = moment(chance.choice(["2026-03-20T12:00", "2026-10-01T12:00"]))
    from orchestrator.slots import between

    fired, missed = [], []
    for slot in between(schedule, begin, begin + 28 * DAY):
        for _ in range(chance.choice([0, 1, 1, 2])):
            end = chance.choice([Ended(), Ended(), Ended(exit_code=75), Unreachable("no")])
            at = slot.begins + chance.uniform(0, 3 * 3600 - 1)
            answer = nightly(watch(store, at=at, schedule=schedule), Runs(end), Signals())
            if answer.morning:
                fired.append(slot.name)
                missed.extend(item.subject for item in answer.morning.of(Kind.MISSED))
    closed = nightrecords.closed_slots(store, "demo")
    assert list(closed) == fired == sorted(set(fired))
    everything = [slot.name for slot in between(schedule, begin, begin + 28 * DAY)]
    inner = [name for name in everything if closed[0] <= name <= closed[-1]]
    assert sorted([*missed, *closed]) == inner


def test_the_morning_compares_with_the_night_before_regressions_first(store):
    tables = [
        told([chain("a"), chain("b"), chain("c", verdict="block")], failures=[
            {"subject": "zoo/d@1 prune", "recipe": "half", "class": "memory", "error": "too large"}]),
        told([chain("a", verdict="block"), chain("b"), chain("c"), chain("e", verdict="inconclusive")], failures=[
            {"subject": "zoo/f@1 prune", "recipe": "half", "class": "poison", "error": "it died"}],
            units=[{"wall_seconds": 1800.0, "pool": "gpu"}, {"wall_seconds": 1800.0, "pool": "gone"}]),
    ]  # fmt: skip
    pool = Pool(
        name="gpu", cpus=0, gpus=2, memory_bytes=None, cpus_per_shard=0, gpus_per_shard=1, label_selector={}, price_per_hour=8
    )  # fmt: skip
    first = nightly(watch(store), Runs(Ended(told=tables[0])), Signals()).morning
    assert first.is_first
    assert first.headline.startswith(
        "First night: 1 newly blocked, 1 newly failed, 2 newly passed, 3 new model"
    )
    record = {
        "registry": "out", "model": "b", "alias": "candidate", "published_version": "2", "previous_version": "1",
        "at": "2026-11-22T03:00:00+00:00", "actor": "ann", "reason": "it passed",
    }  # fmt: skip
    store.put("promotions/x.json", json.dumps(record).encode())
    run = Runs(
        Ended(told=tables[1], carried_over=7, outcome="carried over", stop_reason="the window has ended")
    )
    second = nightly(watch(store, at=ONE + DAY, pools={"gpu": pool}), run, Signals()).morning
    assert second.headline == (
        "1 newly blocked, 1 newly failed, 1 newly inconclusive, 1 aliases moved, 1 newly passed, 1 no longer failing, "
        "1 new model versions, 7 units carried over."
    )
    assert [item.subject for item in second.of(Kind.BLOCKED)] == ["zoo/a@1 half"]
    assert "was pass" in second.of(Kind.BLOCKED)[0].detail
    assert [item.detail for item in second.of(Kind.MOVED)] == ["1 → 2, by ann: it passed"]
    assert (second.night.unit_seconds, second.night.dollars) == (3600.0, 2.0)
    third = nightly(watch(store, at=ONE + 2 * DAY), Runs(Ended(told=tables[1])), Signals()).morning
    assert third.is_quiet
    assert third.headline == "Nothing changed."
    page = nightrecords.read_page(store, "demo", "2026-11-23T0100", "report.html").decode()
    assert page.index("newly blocked") < page.index("newly passed")
    value = json.loads(nightrecords.read_page(store, "demo", "2026-11-23T0100", "report.json"))
    assert value["schema"] == 1
    assert value["changes"][0] == {
        "kind": "blocked",
        "subject": "zoo/a@1 half",
        "detail": "The gate blocked it; was pass",
    }


def test_foreign_names_are_inert_in_every_form(store, server):
    evil = "<script>alert(1)</script>|`[x](javascript:y)`\x1b[31m\u202e"
    spec = {"ops": NotifySpec(url=server.url)}
    nightly(watch(store, notify=spec), Runs(Ended(told=told([chain(evil, verdict="block")]))), Signals())
    pages = {
        name: nightrecords.read_page(store, "demo", "2026-11-22T0100", f"report.{name}").decode()
        for name in ("html", "md")
    }
    assert "<script>" not in pages["html"]
    for text in (*pages.values(), server.seen[0][2].decode()):
        assert "\x1b" not in text
        assert "\u202e" not in text


# Messages


class Server(ThreadingHTTPServer):
    answers: list
    seen: list

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/hook?x=1"


@pytest.fixture
def server():
    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.seen.append((self.path, dict(self.headers), body))
            status = self.server.answers.pop(0) if self.server.answers else 204
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", self.server.url.replace("hook", "elsewhere"))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with Server(("127.0.0.1", 0), Answer) as httpd:
        httpd.answers, httpd.seen = [], []
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


def blocked():
    return Runs(Ended(exit_code=3, outcome="blocked", told=told([chain(verdict="block")])))


def test_a_message_is_signed_over_its_time_and_body_and_names_its_delivery(store, server):
    spec = {"ops": NotifySpec(url=server.url, secret_env="HOOK_SECRET")}
    answer = nightly(watch(store, notify=spec, environment={"HOOK_SECRET": "s3"}), blocked(), Signals())
    assert answer.untold == ()
    ((path, headers, body),) = server.seen
    assert path == "/hook?x=1"
    timestamp = headers[notify.TIMESTAMP_HEADER]
    expected = hmac.new(b"s3", f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    assert headers[notify.SIGNATURE_HEADER] == f"v1={expected}"
    assert abs(int(timestamp) - ONE) < 60
    assert headers[notify.DELIVERY_HEADER] == "demo/2026-11-22T0100"
    value = json.loads(body)
    assert value["headline"].startswith("First night: 1 newly blocked")
    assert value["changes"]["blocked"] == 1
    assert value["report"].endswith("nights/demo/reports/2026-11-22T0100/report.html")
    assert "s3" not in body.decode()


@pytest.mark.parametrize(
    ("answers", "posts", "why"),
    [
        ([302], 1, "redirect"),
        ([404], 1, "404"),
        ([500, 500, 204], 3, ""),
        ([500] * 3, 3, "500"),
        ([429, 204], 2, ""),
    ],
)
def test_a_message_that_is_not_taken_never_fails_the_night_and_is_told_in_the_next(
    store, server, answers, posts, why
):
    server.answers = list(answers)
    spec = {"ops": NotifySpec(url=server.url)}
    answer = nightly(watch(store, notify=spec), blocked(), Signals())
    assert answer.exit_code == 3
    assert len(server.seen) == posts
    assert all(path == "/hook?x=1" for path, _, _ in server.seen), "no redirect is followed"
    assert bool(answer.untold) == bool(why)
    following = nightly(watch(store, at=ONE + DAY, notify=spec), blocked(), Signals()).morning
    assert [
        notice for notice in following.night.notices if "did not arrive" in notice and why in notice
    ] or not why
    assert following.is_quiet == (not why)


def test_a_missing_secret_or_address_sends_nothing_and_tells_no_secret(store, server):
    spec = {
        "unsigned": NotifySpec(url=server.url, secret_env="HOOK_SECRET"),
        "nowhere": NotifySpec(url_env="HOOK_URL"),
        "plain": NotifySpec(url_env="PLAIN_URL"),
        "strange": NotifySpec(kind="apprise", url_env="CHAT_URL"),
    }
    secrets = {"PLAIN_URL": "http://tok3n.example.org/tok3n", "CHAT_URL": "nosuch://tok3n"}
    answer = nightly(watch(store, notify=spec, environment=secrets), blocked(), Signals())
    assert len(answer.untold) == 4
    assert server.seen == []
    everything = b"".join(store.objects.values()).decode(errors="replace") + " ".join(answer.untold)
    assert "tok3n" not in everything
    assert "HOOK_SECRET is not set" in answer.untold[0]


def test_quiet_nights_are_told_only_to_whoever_wants_them(store, server):
    spec = {
        "always": NotifySpec(url=server.url.replace("hook", "always"), when="always"),
        "changed": NotifySpec(url=server.url.replace("hook", "changed")),
        "problems": NotifySpec(url=server.url.replace("hook", "problems"), when="problems"),
    }

    def heard(run, day):
        server.seen.clear()
        nightly(watch(store, at=ONE + day * DAY, notify=spec), run, Signals())
        return {path.split("?")[0] for path, _, _ in server.seen}

    good = told([chain()])
    assert heard(Runs(Ended(told=good)), 0) == {"/always", "/changed"}
    assert heard(Runs(Ended(told=good)), 1) == {"/always"}
    assert heard(Runs(Ended(told=good, carried_over=1)), 2) == {"/always", "/changed"}
    assert heard(blocked(), 3) == {"/always", "/changed", "/problems"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the library itself
def test_apprise_takes_a_message_to_a_service_of_its_own(store, server):
    pytest.importorskip("apprise")
    spec = {"chat": NotifySpec(kind="apprise", url_env="CHAT_URL")}
    environment = {"CHAT_URL": f"json://127.0.0.1:{server.server_port}/chat"}
    answer = nightly(watch(store, notify=spec, environment=environment), blocked(), Signals())
    assert answer.untold == ()
    ((path, _, body),) = server.seen
    assert path.startswith("/chat")
    assert "newly blocked" in json.loads(body)["message"]


# The command

FLEET = """
version: 1
name: nights
store: ./store
registries: {zoo: {kind: directory, path: ./zoo}}
datasets:
  digits: {kind: arrays, path: ./data/arrays.parquet}
recipes:
  half:
    match: {registry: zoo}
    prune: {criterion: magnitude, amount: 0.5}
pools:
  cpu: {cpus: 1}
schedule: {cron: "* * * * *"}
"""


@contextmanager
def environment_of(tmp_path):
    yield {**os.environ, "NO_COLOR": "1", "COLUMNS": "300", "XDG_CACHE_HOME": str(tmp_path / "cache")}


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Types a command in this process: every further one would load everything anew."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def typed(*arguments):
        monkeypatch.setattr(sys, "argv", ["prunefleet", *arguments])
        return command_line()

    return typed


def test_the_commands_run_a_night_and_show_its_morning(tmp_path, make_small_fleet, call, capsys):
    fleet = make_small_fleet(models=0, text=FLEET.replace('{cron: "* * * * *"}', '{at: "00:00"}'))
    (tmp_path / "zoo").mkdir()
    assert call("morning", "fleet.yaml") == 2
    assert "no night yet" in capsys.readouterr().err
    assert call("nightly", "fleet.yaml", "--backend", "local", "--json", "--trigger", "cron") == 4
    value = json.loads(capsys.readouterr().out)
    assert value["duty"] == "run"
    assert value["morning"]["night"]["trigger"] == "cron"
    assert call("nightly", "fleet.yaml", "--backend", "local", "--json") == 0
    assert json.loads(capsys.readouterr().out)["duty"] == "done"
    assert call("morning", "fleet.yaml") == 0
    assert "First night: 1 newly impossible." in capsys.readouterr().out
    assert call("morning", "fleet.yaml", "--to", "m.html") == 0
    assert "First night" in (tmp_path / "m.html").read_text()
    assert call("morning", "fleet.yaml", "--to", "m.pdf") == 2
    assert call("morning", "fleet.yaml", "1999-01-01T0100") == 69
    fleet.write_text(fleet.read_text().split("schedule:")[0])
    assert call("nightly", "fleet.yaml") == 2
    assert "no schedule" in capsys.readouterr().err


def test_a_resident_runs_a_night_waits_for_the_next_and_ends_when_told_to(tmp_path, make_small_fleet):
    make_small_fleet(models=0, text=FLEET.replace('{cron: "* * * * *"}', '{cron: "0 0 1 * *"}'))
    (tmp_path / "zoo").mkdir()
    with environment_of(tmp_path) as environment:
        process = subprocess.Popen(
            [str(COMMAND), "nightly", "fleet.yaml", "--resident", "--backend", "local"],
            cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if "the next night is slot" in line:
                    break
            assert any("morning report: First night" in line for line in lines), lines
            process.terminate()
            assert process.wait(timeout=120) == 0
        finally:
            process.kill()
            process.stderr.close()


def test_a_night_is_a_value_that_can_be_changed(store):
    morning = nightly(watch(store), Runs(), Signals()).morning
    assert replace(morning, is_first=False).headline == "Nothing changed."

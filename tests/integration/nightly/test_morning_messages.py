"""What changed since the night before, who is told, and with what signature."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace

import pytest
from cases.nights import DAY, ONE, Ended, Runs, blocked, chain, told, watch

from orchestrator.controller import Signals
from orchestrator.domain import Pool
from orchestrator.nights import nightrecords, notify
from orchestrator.nights.nightly import nightly
from orchestrator.reports.morning import Kind
from orchestrator.specs.nights import NotifySpec


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
        "fleet": "demo", "registry": "out", "model": "b", "alias": "candidate", "published_version": "2", "previous_version": "1",
        "at": "2026-11-22T03:00:00+00:00", "actor": "ann", "reason": "it passed",
    }  # fmt: skip
    store.put("promotions/x.json", json.dumps(record).encode())
    store.put("promotions/y.json", json.dumps({**record, "fleet": "another", "model": "c"}).encode())
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


def test_a_night_is_a_value_that_can_be_changed(store):
    morning = nightly(watch(store), Runs(), Signals()).morning
    assert replace(morning, is_first=False).headline == "Nothing changed."

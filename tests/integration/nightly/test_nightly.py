"""One night per slot: triggers in parallel, late and killed."""

from __future__ import annotations

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from cases.nights import DAY, ONE, Ended, Runs, chain, moment, told, watch

from orchestrator import leases
from orchestrator.controller import Signals
from orchestrator.errors import Unreachable
from orchestrator.nights import nightrecords
from orchestrator.nights.due import Duty
from orchestrator.nights.looking import has_work, look
from orchestrator.nights.nightly import EXIT_FAILED, EXIT_INTERRUPTED, nightly
from orchestrator.reports.morning import Kind
from orchestrator.simulation.store import Flaw, MemoryStore
from orchestrator.specs.nights import NotifySpec, ScheduleSpec
from orchestrator.stores.local import LocalStore


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


def test_a_night_that_cannot_be_run_is_tried_while_its_window_is_open_then_given_up_and_said_each_time_once(
    store, server
):
    spec = {"ops": NotifySpec(url=server.url, when="problems")}
    run = Runs(*[Unreachable("the registry does not answer")] * 30)
    codes = [
        nightly(watch(store, at=ONE + 900 * number, notify=spec), run, Signals()).exit_code
        for number in range(23)
    ]
    assert codes == [69] * 20 + [EXIT_FAILED, 0, 0], "the window is five hours"
    assert len(run.stops) == 20
    texts = [json.loads(body) for _, _, body in server.seen]
    assert [text["outcome"] for text in texts] == ["failed", "given up"]
    assert "the registry does not answer" in " ".join(texts[0]["lines"])
    assert [text["delivery"] for text in texts] == ["demo/2026-11-22T0100-open", "demo/2026-11-22T0100"]
    assert (texts[0]["headline"], texts[0]["report"]) == ("it could not be run, and is tried again", "")
    assert texts[1]["report"].endswith("/report.html")
    record = nightrecords.read_closed(store, "demo", "2026-11-22T0100")
    assert (record["outcome"], record["stands"], record["tries"]) == ("given up", False, 20)
    good = nightly(watch(store, at=ONE + DAY), Runs(), Signals())
    assert good.morning.of(Kind.MISSED) == ()


def test_a_night_that_dies_again_and_again_is_given_up(store):
    for number in range(3):
        nightrecords.begin_try(store, "demo", "2026-11-22T0100", f"{number:03}-x", {})
    answer = nightly(watch(store, at=ONE + 900), Runs(AssertionError("must not run")), Signals())
    assert answer.exit_code == EXIT_FAILED
    assert answer.morning.night.outcome == "given up"


def test_a_night_that_is_interrupted_again_and_again_goes_on_each_time(store):
    run = Runs(*[Ended(exit_code=75, outcome="interrupted", stop_reason="SIGTERM")] * 6, Ended(run_id="r7"))
    for number in range(6):
        assert nightly(watch(store, at=ONE + 900 * number), run, Signals()).exit_code == EXIT_INTERRUPTED
    last = nightly(watch(store, at=ONE + 5400), run, Signals())
    assert (last.morning.night.run_id, last.morning.night.tries) == ("r7", 7)


def test_a_bug_is_told_like_any_other_failure_and_not_hidden(store, server):
    own = watch(store, notify={"ops": NotifySpec(url=server.url, when="problems")})
    with pytest.raises(KeyError):
        nightly(own, Runs(KeyError("units")), Signals())
    (text,) = [json.loads(body) for _, _, body in server.seen]
    assert (text["outcome"], text["exit_code"]) == ("failed", 1)
    assert "KeyError('units')" in " ".join(text["lines"])
    assert nightly(watch(store, at=ONE + 900), Runs(), Signals()).morning.night.tries == 2


def test_what_stood_may_be_damaged_or_gone_and_the_night_closes(store):
    for day in range(3):
        nightly(watch(store, at=ONE + day * DAY), Runs(Ended(told=told([chain()]))), Signals())
    newest = f"{nightrecords.PREFIX}demo/reports/2026-11-24T0100/{nightrecords.STANDING}"
    store.put(newest, b"torn")
    answer = nightly(watch(store, at=ONE + 3 * DAY), Runs(Ended(told=told([chain()]))), Signals())
    assert any("compared with nothing" in notice for notice in answer.morning.night.notices)
    assert answer.due.duty is Duty.RUN
    assert nightrecords.closed_slots(store, "demo")[-1] == "2026-11-25T0100"
    store.delete(f"{nightrecords.PREFIX}demo/reports/2026-11-25T0100/{nightrecords.STANDING}")
    store.delete(newest)
    _, since = nightrecords.last_standing(store, "demo")
    assert since == nightrecords.read_closed(store, "demo", "2026-11-23T0100")["ended_at"]


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
    from cases.slots import between

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


def test_a_cluster_is_wanted_for_a_slot_that_is_due_until_somebody_works_on_it_or_has(store):
    schedule = watch(store).schedule

    def wanted(at):
        return has_work(store, "demo", look(store, "demo", schedule, at), at)[0]

    assert wanted(ONE)
    assert wanted(ONE - 60), "the slot is about to begin"
    held = leases.acquire(store, "nightly-demo", "somebody", ONE, 150.0)
    assert not wanted(ONE + 100)
    assert wanted(ONE + 200), "whoever had the lease is dead"
    leases.release(store, held)
    assert wanted(ONE + 100)
    assert not wanted(ONE + 6 * 3600), "the window is over"
    nightly(watch(store), lambda *_: Ended(), Signals())
    assert not wanted(ONE + 300)

"""What is under way is written down before it starts, and what a dead run left is treated with care."""

from __future__ import annotations

import pytest

from orchestrator import underway
from orchestrator.controller import Controller
from orchestrator.domain import Failure, FailureClass, Shard, UnitReport, UnitStatus
from orchestrator.errors import NotPermitted, Unreachable
from orchestrator.ports import AttemptEnded
from orchestrator.schedule.retry import POLICY
from orchestrator.schedule.scheduling import Start, UnitState, begin, decide, observe
from orchestrator.simulation.store import MemoryStore

HOUR = 3600.0


@pytest.fixture
def store():
    return MemoryStore()


def start(name, *units):
    shard = Shard(id=name, units=units, pool="cpu", predicted_seconds=1.0, memory_bytes=0)
    return Start(attempt_id=name, shard=shard, limit_seconds=10.0)


class Worker:
    """A backend whose attempts end when they are told to; looks at the store at each start."""

    def __init__(self, store):
        self.store, self.started, self.ended, self.seen = store, [], [], []

    def capacity(self):
        return {"cpu": 2}

    def largest_nodes(self):
        return {}

    def submit(self, assignment):
        self.started.append(assignment)
        self.seen.append(underway.left(self.store))

    def wait(self, seconds):
        ended, self.ended = self.ended, []
        return ended

    def cancel(self, attempt_id, *, force):
        raise AssertionError("nobody cancels")

    def close(self):
        pass


class Clock:
    at = 0.0

    def now(self):
        return self.at

    def sleep(self, seconds):
        self.at += max(seconds, 0.01)


def controller_of(store, worker, clock):
    return Controller(run_id="r1", store=store, backend=worker, clock=clock, payload=lambda order: None)


def everything_done(worker):
    for assignment in worker.started:
        reports = tuple(UnitReport(key=key, status=UnitStatus.DONE) for key in assignment.shard.units)
        worker.ended.append(AttemptEnded(attempt_id=assignment.attempt_id, reports=reports))
    worker.started.clear()


def play(controller, progress, worker, clock, rounds=1000):
    for _ in range(rounds):
        if progress.is_over:
            return
        controller.round(progress)
        everything_done(worker)
        controller.take_in(progress, worker.wait(0.0))
        clock.at += 1.0
    raise AssertionError("it does not end")


def test_every_attempt_is_written_down_before_it_starts_and_nothing_is_left(store, make_plan, make_pool):
    worker, clock = Worker(store), Clock()
    progress = begin(plan := make_plan(), {"cpu": make_pool()}, _costs(), {})
    controller = controller_of(store, worker, clock)
    controller.round(progress)
    units = {key for assignment in worker.started for key in assignment.shard.units}
    assert units
    assert all(seen >= units for seen in worker.seen)
    everything_done(worker)
    controller.take_in(progress, worker.wait(0.0))
    assert underway.left(store) == units, "its removal keeps no free slot waiting"
    worker.seen.clear()
    controller.round(progress)
    assert worker.seen[0] > units
    assert units.isdisjoint(underway.left(store))
    everything_done(worker)
    controller.take_in(progress, worker.wait(0.0))
    play(controller, progress, worker, clock)
    controller.journal.close()
    assert progress.counts[UnitState.DONE] == len(plan.todo)
    assert store.objects == {}


def _costs():
    from orchestrator.schedule.costs import Costs

    return Costs()


class Sulking(MemoryStore):
    """A store that takes no entry for a while."""

    def put(self, key, data):
        if key.startswith(underway.PREFIX) and self.sulks > 0:
            self.sulks -= 1
            raise self.why("no answer")
        MemoryStore.put(self, key, data)


@pytest.mark.parametrize("sulks", [1, 3])
def test_what_cannot_be_written_down_does_not_start_and_is_tried_again(make_plan, make_pool, sulks):
    store, clock = Sulking(), Clock()
    store.sulks, store.why = sulks, Unreachable
    worker = Worker(store)
    controller = controller_of(store, worker, clock)
    progress = begin(plan := make_plan(), {"cpu": make_pool()}, _costs(), {})
    for _ in range(sulks):
        controller.round(progress)
        assert worker.started == []
        assert progress.used_slots["cpu"] == 0
        clock.at += POLICY[FailureClass.STORAGE].delay * 2**sulks
    play(controller, progress, worker, clock)
    assert progress.counts[UnitState.DONE] == len(plan.todo)


def test_a_store_that_forbids_the_entry_ends_the_run_before_anything_starts(make_plan, make_pool):
    store = Sulking()
    store.sulks, store.why = 1, NotPermitted
    worker = Worker(store)
    with pytest.raises(NotPermitted):
        controller_of(store, worker, Clock()).round(begin(make_plan(), {"cpu": make_pool()}, _costs(), {}))
    assert worker.started == []


def test_an_entry_that_cannot_be_removed_stops_nobody(make_plan, make_pool):
    class Keeping(MemoryStore):
        def delete(self, key):
            raise Unreachable("no answer")

    store, clock = Keeping(), Clock()
    worker = Worker(store)
    progress = begin(plan := make_plan(), {"cpu": make_pool()}, _costs(), {})
    controller = controller_of(store, worker, clock)
    play(controller, progress, worker, clock)
    assert progress.counts[UnitState.DONE] == len(plan.todo)
    assert underway.left(store) == set(plan.todo)
    store.delete = lambda key: MemoryStore.delete(store, key)
    controller.journal.close()
    assert underway.left(store) == frozenset(), "at its end a run tries once more"


def test_an_entry_stays_until_all_of_its_attempts_have_ended(store):
    journal = underway.Journal(store, "r1")
    journal.begin([start("s1", "a", "b"), start("s2", "c")], 5.0)
    journal.begin([start("s3", "d")], 6.0)
    journal.end("s1")
    journal.tidy()
    assert underway.left(store) == {"a", "b", "c", "d"}
    journal.end("s2")
    journal.tidy()
    assert underway.left(store) == {"d"}
    journal.end("nobody")
    journal.end("s3")
    journal.tidy()
    assert store.objects == {}


def test_runs_keep_their_entries_apart(store):
    for run, at in (("r1", 1.0), ("r2", 2.0)):
        underway.Journal(store, run).begin([start("s1", "a")], at)
    assert underway.left(store) == {"a"}
    assert underway.left(store, threads=1) == {"a"}


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"at": "x"}', b'{"at": 1, "attempts": {"s": 3}}', b"\xff"]
)
def test_what_is_no_entry_accuses_nobody_and_is_cleared_away(store, data):
    store.put("underway/r1/00000000.json", data)
    assert underway.left(store) == frozenset()
    underway.settle(store, frozenset(), at=0.0)
    assert store.objects == {}


def test_entries_go_when_all_of_it_is_done_or_a_month_old(store):
    journal = underway.Journal(store, "r1")
    journal.begin([start("s1", "a", "b")], 100.0)
    underway.settle(store, {"a"}, at=200.0)
    assert underway.left(store) == {"a", "b"}
    underway.settle(store, {"a", "b"}, at=200.0)
    assert underway.left(store) == frozenset()
    journal.begin([start("s2", "c")], 100.0)
    underway.settle(store, set(), at=100.0 + 31 * 24 * HOUR)
    assert underway.left(store) == frozenset()


def test_suspects_run_alone_and_after_the_others(make_plan, make_model, make_pool):
    models = [make_model(f"m{number}") for number in range(4)]
    plan = make_plan(models)
    pools = {"cpu": make_pool(cpus=1.0)}
    roots = [key for key in plan.todo if not plan.units[key].needs]
    suspects = {key for key in roots if plan.units[key].model.name == "m0"}
    progress = begin(plan, pools, _costs(), {}, suspects | {"unknown"})
    order, at = [], 0.0
    while not progress.is_over:
        for each in decide(progress, {"cpu": 1}, at):
            assert isinstance(each, Start)
            order.append(each.shard.units)
            reports = tuple(UnitReport(key=key, status=UnitStatus.DONE) for key in each.shard.units)
            observe(progress, AttemptEnded(attempt_id=each.attempt_id, reports=reports), at)
        at += 1.0
    assert progress.counts[UnitState.DONE] == len(plan.todo)
    shards_of_suspects = [units for units in order if suspects & set(units)]
    assert all(len(units) == 1 for units in shards_of_suspects)
    assert len(shards_of_suspects) == len(suspects)
    kinds = {plan.units[key].task for key in suspects}
    for kind in kinds:
        of_kind = [key for units in order for key in units if key in roots and plan.units[key].task is kind]
        suspicious = [key in suspects for key in of_kind]
        assert suspicious == sorted(suspicious), f"a suspected {kind} went before another"


def test_a_suspect_that_fails_alone_is_treated_like_any_other(make_plan, make_pool):
    plan = make_plan()
    root = next(key for key in plan.todo if not plan.units[key].needs)
    progress = begin(plan, {"cpu": make_pool()}, _costs(), {}, {root})
    at, deaths = 0.0, 0
    while not progress.is_over and deaths < 20:
        for each in decide(progress, {"cpu": 2}, at):
            if each.shard.units == (root,):
                deaths += 1
                failure = Failure(failure_class=FailureClass.POISON, error="gone")
                event = AttemptEnded(attempt_id=each.attempt_id, failure=failure)
            else:
                reports = tuple(UnitReport(key=key, status=UnitStatus.DONE) for key in each.shard.units)
                event = AttemptEnded(attempt_id=each.attempt_id, reports=reports)
            observe(progress, event, at)
        at += 400.0
    assert deaths == POLICY[FailureClass.POISON].tries
    assert progress.states[root] is UnitState.QUARANTINED


class Shaky(MemoryStore):
    """A store that fails now and then."""

    fails = ()

    def delete(self, key):
        if "delete" in self.fails:
            raise Unreachable("no answer")
        MemoryStore.delete(self, key)

    def get(self, key):
        if "get" in self.fails:
            raise Unreachable("no answer")
        return MemoryStore.get(self, key)


def test_what_could_not_be_removed_is_removed_with_the_next_one():
    store = Shaky()
    journal = underway.Journal(store, "r1")
    journal.begin([start("s1", "a")], 1.0)
    journal.begin([start("s2", "b")], 2.0)
    store.fails = ("delete",)
    journal.end("s1")
    journal.tidy()
    assert underway.left(store) == {"a", "b"}
    store.fails = ()
    journal.end("s2")
    journal.tidy()
    assert store.objects == {}


def test_what_cannot_be_read_now_accuses_nobody_and_stays():
    store = Shaky()
    underway.Journal(store, "r1").begin([start("s1", "a")], 1.0)
    store.fails = ("get",)
    assert underway.left(store) == frozenset()
    underway.settle(store, {"a"}, at=1e9)
    store.fails = ()
    assert underway.left(store) == {"a"}

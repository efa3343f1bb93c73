"""The scheduler's brain under events in every order: a table of what is owed, and invariants that always hold."""

from __future__ import annotations

import random

import pytest
from cases.schedules import ENDED, broken, died, done, run_to_end, starts

from orchestrator.domain import FailureClass, TaskName, UnitReport, UnitStatus
from orchestrator.ports import AttemptEnded
from orchestrator.schedule.scheduling import (
    KILL_AFTER_SECONDS,
    MIN_DEADLINE_SECONDS,
    MIN_SHARD_SECONDS,
    STARVED_SECONDS,
    Cancel,
    Stop,
    UnitState,
    begin,
    decide,
    drain,
    observe,
)


@pytest.fixture
def make_progress(make_plan, make_pool, costs):
    def make(plan=None, pools=None, misfits=None):
        pools = pools or [make_pool()]
        return begin(plan or make_plan(), {pool.name: pool for pool in pools}, costs, misfits or {})

    return make


def test_everything_is_done_when_every_attempt_is_good(make_progress):
    progress = make_progress()
    run_to_end(progress, done)
    assert set(progress.states.values()) == {UnitState.DONE}
    assert progress.work_left == pytest.approx(0.0, abs=1e-6)


def test_a_plan_without_work_is_over_at_once(make_plan, make_progress):
    progress = make_progress(make_plan(completed=make_plan().units))
    assert progress.is_over
    assert decide(progress, {"cpu": 2}, 0.0) == []


def test_no_more_shards_start_than_there_are_slots(make_plan, make_model, make_progress):
    progress = make_progress(make_plan([make_model(str(n)) for n in range(20)]))
    assert len(starts(decide(progress, {"cpu": 2}, 0.0))) == 2
    assert starts(decide(progress, {"cpu": 2}, 0.0)) == []
    assert len(starts(decide(progress, {"cpu": 5}, 0.0))) == 3


def test_a_pool_that_shrinks_gets_nothing_new(make_progress):
    progress = make_progress()
    decide(progress, {"cpu": 2}, 0.0)
    assert starts(decide(progress, {"cpu": 1}, 1.0)) == []


def test_units_of_one_model_share_a_shard(make_plan, make_progress):
    progress = make_progress(make_plan())
    (first, *_) = starts(decide(progress, {"cpu": 1}, 0.0))
    assert len(first.shard.units) == 2
    assert {progress.plan.units[key].task.value for key in first.shard.units} == {"sensitivity"}


def test_the_last_units_are_spread_over_the_slots_instead_of_sharing_one(
    make_plan, make_model, make_progress
):
    models = [make_model(str(number)) for number in range(16)]
    plan = make_plan(models)
    judges = {key for key, unit in plan.units.items() if unit.task is TaskName.JUDGE}
    progress = make_progress(make_plan(models, completed=set(plan.units) - judges))
    assert set(progress.plan.todo) == judges
    slots, at, busy_until, ends = 2, 0.0, {}, {}
    while not progress.is_over:
        for start in starts(decide(progress, {"cpu": slots}, at)):
            busy_until[start.attempt_id] = at + start.shard.predicted_seconds
            ends[start.attempt_id] = start
        attempt_id = min(busy_until, key=busy_until.__getitem__)
        at = busy_until.pop(attempt_id)
        observe(progress, done(ends[attempt_id]), at)
    each = progress.work(next(iter(judges)))
    assert len(judges) * each < MIN_SHARD_SECONDS, "one shard of the usual size would hold them all"
    assert at <= (len(judges) / slots + 1) * each
    assert len(ends) < len(judges)


def test_what_most_work_waits_for_starts_first(make_progress):
    progress = make_progress()
    (first,) = starts(decide(progress, {"cpu": 1}, 0.0))
    ready = [key for key, state in progress.states.items() if state in (UnitState.READY, UnitState.RUNNING)]
    assert max(progress.ranks[key] for key in ready) == max(progress.ranks[key] for key in first.shard.units)


@pytest.mark.parametrize("kind", [FailureClass.INFRASTRUCTURE, FailureClass.PREEMPTION, FailureClass.STORAGE])
def test_a_loss_that_is_nobodys_fault_is_tried_again_and_forgotten(make_progress, kind):
    progress = make_progress()
    lost = set()

    def answer(start):
        if start.shard.units not in lost:
            lost.add(start.shard.units)
            return died(start, kind)
        return done(start)

    run_to_end(progress, answer)
    assert set(progress.states.values()) == {UnitState.DONE}


def test_bad_input_is_quarantined_at_once_and_costs_only_its_own_chain(make_plan, make_model, make_progress):
    plan = make_plan([make_model("good"), make_model("bad")])
    progress = make_progress(plan)

    def answer(start):
        bad = progress.plan.units[start.shard.units[0]].model.name == "bad"
        return broken(start, FailureClass.BAD_INPUT, "NaN in a tensor") if bad else done(start)

    run_to_end(progress, answer)
    ended = {plan.units[key].model.name: set() for key in plan.todo}
    for key in plan.todo:
        ended[plan.units[key].model.name].add(progress.states[key])
    assert ended["good"] == {UnitState.DONE}
    assert ended["bad"] == {UnitState.QUARANTINED, UnitState.FAILED}
    assert all(progress.failures[key].total() == 1 for key in progress.quarantine)


def test_what_needs_a_failed_unit_says_so(make_progress):
    progress = make_progress()
    run_to_end(progress, lambda start: broken(start, FailureClass.BAD_INPUT))
    upstream = [why for why in progress.reasons.values() if why.failure_class is FailureClass.UPSTREAM]
    assert upstream
    assert "failed (bad_input)" in upstream[0].error or "failed (upstream)" in upstream[0].error


def test_a_crash_of_a_shared_shard_blames_nobody_until_one_crashes_alone(make_progress):
    progress = make_progress()
    guilty = next(key for key, unit in progress.plan.units.items() if unit.task.value == "sensitivity")
    seen = []

    def answer(start):
        if guilty in start.shard.units:
            seen.append(len(start.shard.units))
            return died(start, FailureClass.POISON)
        return done(start)

    run_to_end(progress, answer, capacity={"cpu": 1})
    assert progress.states[guilty] is UnitState.QUARANTINED
    assert seen == [2, 1, 1, 1], "once in company, then three times alone"
    innocent = [
        key for key, unit in progress.plan.units.items() if unit.task.value == "sensitivity" and key != guilty
    ]
    assert all(progress.states[key] is UnitState.DONE for key in innocent)


def test_out_of_memory_asks_for_more_memory_each_time(make_progress):
    progress = make_progress()
    asked = []

    def answer(start):
        if progress.plan.units[start.shard.units[0]].task.value == "sensitivity":
            asked.append(start.shard.memory_bytes)
            return broken(start, FailureClass.MEMORY)
        return done(start)

    run_to_end(progress, answer)
    alone = [b for b in asked if b > asked[0]]
    assert alone
    assert sorted(set(asked)) == [asked[0], asked[0] * 2, asked[0] * 4, asked[0] * 8][: len(set(asked))]


def test_more_memory_than_any_pool_has_is_a_failure_and_no_endless_wait(
    make_plan, make_pool, make_progress, costs
):
    pool = make_pool(memory_bytes=int(1.5e9))
    progress = make_progress(pools=[pool])
    run_to_end(progress, lambda start: broken(start, FailureClass.MEMORY))
    assert progress.is_over
    assert any("no pool has the memory" in why.error for why in progress.reasons.values())


def test_a_unit_that_fits_nowhere_fails_before_the_start(make_plan, make_progress):
    plan = make_plan()
    misfit = next(iter(plan.todo))
    progress = make_progress(plan, misfits={misfit: "needs 900 GiB"})
    assert progress.states[misfit] is UnitState.FAILED
    run_to_end(progress, done)
    assert progress.is_over


def test_memory_of_what_runs_is_subtracted(make_pool, make_plan, make_model, make_progress, costs):
    plan = make_plan([make_model(str(n)) for n in range(6)])
    one = max(costs.estimate(plan.units[key], make_pool()).memory_bytes for key in plan.todo)
    progress = make_progress(plan, pools=[make_pool(cpus=8.0, memory_bytes=int(one * 2.5))])
    assert len(starts(decide(progress, {"cpu": 8}, 0.0))) == 2


def test_an_attempt_past_its_deadline_is_asked_then_killed_then_tried_once_more(make_progress):
    progress = make_progress()
    (start, *_) = starts(decide(progress, {"cpu": 1}, 0.0))
    late = MIN_DEADLINE_SECONDS + 1
    assert start.shard.predicted_seconds * 20 < MIN_DEADLINE_SECONDS
    assert decide(progress, {"cpu": 1}, MIN_DEADLINE_SECONDS - 1) == []
    assert decide(progress, {"cpu": 1}, late) == [Cancel(attempt_id=start.attempt_id, force=False)]
    assert decide(progress, {"cpu": 1}, late + 1) == []
    assert decide(progress, {"cpu": 1}, late + KILL_AFTER_SECONDS) == [
        Cancel(attempt_id=start.attempt_id, force=True)
    ]
    observe(progress, died(start, FailureClass.POISON), late + 40)
    assert all(progress.reasons[key].failure_class is FailureClass.TIMEOUT for key in start.shard.units)
    assert all(progress.states[key] is UnitState.WAITING for key in start.shard.units)


def test_a_late_report_of_an_unknown_attempt_still_proves_its_units_done(make_progress):
    progress = make_progress()
    (start, *_) = starts(decide(progress, {"cpu": 1}, 0.0))
    observe(progress, died(start, FailureClass.INFRASTRUCTURE), 1.0)
    observe(progress, done(start), 2.0)
    assert all(progress.states[key] is UnitState.DONE for key in start.shard.units)
    attempts = run_to_end(progress, done)
    assert attempts < len(progress.plan.todo)


def test_a_report_that_arrives_twice_changes_nothing(make_progress):
    progress = make_progress()
    (start, *_) = starts(decide(progress, {"cpu": 1}, 0.0))
    observe(progress, done(start), 1.0)
    counts, left = dict(progress.counts), progress.work_left
    observe(progress, done(start), 2.0)
    assert dict(progress.counts) == counts
    assert progress.work_left == left


def test_a_report_that_is_missing_is_a_failure_and_not_a_success(make_progress):
    progress = make_progress()
    (start, *_) = starts(decide(progress, {"cpu": 1}, 0.0))
    observe(progress, AttemptEnded(attempt_id=start.attempt_id), 1.0)
    assert all(progress.reasons[key].failure_class is FailureClass.INTERNAL for key in start.shard.units)


def test_units_that_somebody_else_has_done_are_done(make_progress):
    progress = make_progress()
    (start, *_) = starts(decide(progress, {"cpu": 1}, 0.0))
    found = tuple(UnitReport(key=key, status=UnitStatus.FOUND) for key in start.shard.units)
    observe(progress, AttemptEnded(attempt_id=start.attempt_id, reports=found), 1.0)
    assert {progress.states[key] for key in start.shard.units} == {UnitState.DONE}


def test_draining_starts_nothing_and_ends_when_the_last_attempt_does(make_progress):
    progress = make_progress()
    (start, *_) = starts(decide(progress, {"cpu": 1}, 0.0))
    drain(progress, "stopped by SIGTERM")
    assert decide(progress, {"cpu": 9}, 1.0) == []
    assert not progress.is_over
    observe(progress, done(start), 2.0)
    assert progress.is_over
    assert progress.counts[UnitState.READY] + progress.counts[UnitState.WAITING] > 0


def test_the_first_reason_to_stop_stays(make_progress):
    progress = make_progress()
    drain(drain(progress, "first"), "second")
    assert progress.stop.reason == "first"


@pytest.mark.parametrize("kind", [FailureClass.PERMISSION, FailureClass.CLUSTER])
def test_a_refused_credential_or_a_lost_cluster_stops_the_run_and_charges_no_unit(make_progress, kind):
    progress = make_progress()
    run_to_end(progress, lambda start: broken(start, kind))
    assert progress.stop.failure_class is kind
    assert progress.counts[UnitState.FAILED] == progress.counts[UnitState.QUARANTINED] == 0


def test_without_any_slot_the_run_says_so_after_a_while(make_progress):
    progress = make_progress()
    assert decide(progress, {"cpu": 0}, 0.0) == []
    assert decide(progress, {}, STARVED_SECONDS - 1) == []
    (stop,) = decide(progress, {"cpu": 0}, STARVED_SECONDS + 1)
    assert isinstance(stop, Stop)
    assert "cpu: 0" in stop.reason
    assert progress.is_over


def test_a_slot_that_comes_back_in_time_is_used(make_progress):
    progress = make_progress()
    decide(progress, {"cpu": 0}, 0.0)
    assert starts(decide(progress, {"cpu": 1}, STARVED_SECONDS - 1))
    assert progress.stop is None


def test_two_pools_work_at_once_and_the_faster_takes_what_it_is_best_at(
    make_plan, make_model, make_pool, make_progress
):
    models = [make_model(str(n), parameters=10**8, bytes=4 * 10**8) for n in range(6)]
    pools = [make_pool(), make_pool("gpu", cpus=2.0, gpus=2.0)]
    progress = make_progress(make_plan(models), pools=pools)
    used = set()

    def answer(start):
        used.add(start.shard.pool)
        return done(start)

    run_to_end(progress, answer)
    assert "gpu" in used
    assert set(progress.states.values()) == {UnitState.DONE}


def test_a_pool_without_slots_does_not_keep_the_other_waiting(make_pool, make_progress):
    progress = make_progress(pools=[make_pool(), make_pool("gpu", cpus=2.0, gpus=2.0)])
    run_to_end(progress, done, capacity={"cpu": 1, "gpu": 0})
    assert set(progress.states.values()) == {UnitState.DONE}


@pytest.mark.parametrize("seed", range(60))
def test_under_random_weather_every_unit_ends_and_the_invariants_hold(
    make_plan, make_model, make_pool, make_progress, seed
):
    rng = random.Random(seed)
    models = [make_model(str(n), bytes=rng.choice([10**5, 10**7, 10**9])) for n in range(rng.randint(1, 8))]
    pools = [make_pool(cpus=float(rng.randint(1, 4)))]
    if rng.random() < 0.5:
        pools.append(make_pool("gpu", cpus=4.0, gpus=float(rng.randint(1, 3))))
    progress = make_progress(make_plan(models), pools=pools)
    flaky = [FailureClass.INFRASTRUCTURE, FailureClass.STORAGE, FailureClass.PREEMPTION, FailureClass.POISON,
             FailureClass.MEMORY, FailureClass.BAD_INPUT, FailureClass.INTERNAL, FailureClass.TIMEOUT]  # fmt: skip
    trouble = rng.choice([0.0, 0.1, 0.5])

    def answer(start):
        if rng.random() >= trouble:
            return done(start)
        kind = rng.choice(flaky)
        return died(start, kind) if rng.random() < 0.5 else broken(start, kind)

    run_to_end(progress, answer)
    assert all(state in ENDED for state in progress.states.values())
    assert progress.work_left == pytest.approx(0.0, abs=1e-3)
    assert not progress.running
    assert set(progress.used_slots.values()) <= {0}


def test_the_same_events_lead_to_the_same_decisions(make_plan, make_model, make_progress):
    def story():
        progress = make_progress(make_plan([make_model(str(n)) for n in range(5)]))
        rng, told = random.Random(7), []

        def answer(start):
            told.append((start.attempt_id, start.shard.units))
            return died(start, FailureClass.INFRASTRUCTURE) if rng.random() < 0.2 else done(start)

        run_to_end(progress, answer)
        return told

    assert story() == story()


def test_a_run_whose_last_units_were_done_by_others_is_over_even_without_a_slot(make_progress):
    progress = make_progress()
    (start, *_) = starts(decide(progress, {"cpu": 1}, 0.0))
    observe(progress, died(start, FailureClass.POISON), 1.0)
    reports = tuple(UnitReport(key=key, status=UnitStatus.FOUND) for key in progress.plan.todo)
    observe(progress, AttemptEnded(attempt_id="somebody else's", reports=reports), 2.0)
    assert set(progress.states.values()) == {UnitState.DONE}
    decide(progress, {"cpu": 0}, 3.0)
    assert progress.is_over
    assert progress.stop is None

"""Runs played by hand: what becomes of attempts, and what must hold after every step."""

from __future__ import annotations

from orchestrator.domain import Failure, UnitReport, UnitStatus
from orchestrator.ports import AttemptEnded
from orchestrator.schedule.scheduling import (
    Start,
    UnitState,
    decide,
    next_wake,
    observe,
)

ENDED = (UnitState.DONE, UnitState.FAILED, UnitState.QUARANTINED)


def done(start, at=1.0):
    reports = tuple(UnitReport(key=key, status=UnitStatus.DONE, wall_seconds=at) for key in start.shard.units)
    return AttemptEnded(attempt_id=start.attempt_id, reports=reports)


def broken(start, kind, text="boom"):
    failure = Failure(failure_class=kind, error=text)
    reports = tuple(
        UnitReport(key=key, status=UnitStatus.FAILED, failure=failure) for key in start.shard.units
    )
    return AttemptEnded(attempt_id=start.attempt_id, reports=reports)


def died(start, kind):
    return AttemptEnded(attempt_id=start.attempt_id, failure=Failure(failure_class=kind, error="gone"))


def starts(orders):
    return [order for order in orders if isinstance(order, Start)]


def run_to_end(progress, answer, capacity=None, limit=10_000):
    """Answers every start through `answer(start)`, advancing time as `next_wake` says; the number of attempts."""
    capacity = capacity or {name: pool.slots for name, pool in progress.pools.items()}
    at, attempts = 0.0, 0
    for _ in range(limit):
        if progress.is_over:
            return attempts
        orders = starts(decide(progress, capacity, at))
        attempts += len(orders)
        for start in orders:
            check(progress, capacity)
            observe(progress, answer(start), at)
        check(progress, capacity)
        at += max(1.0, next_wake(progress, at))
    raise AssertionError("the run does not end")


def check(progress, capacity):
    """What holds after every step, whatever happened."""
    running = [key for attempt in progress.running.values() for key in attempt.shard.units]
    assert len(running) == len(set(running)), "a unit runs twice"
    assert all(progress.states[key] in (UnitState.RUNNING, *ENDED) for key in running)
    assert sum(progress.counts.values()) == len(progress.states) == len(progress.plan.todo)
    for name in progress.pools:
        used = sum(attempt.shard.pool == name for attempt in progress.running.values())
        assert used == progress.used_slots[name] <= capacity.get(name, 0)
    for key, state in progress.states.items():
        if state in (UnitState.READY, UnitState.RUNNING):
            unit = progress.plan.units[key]
            assert all(
                need in progress.plan.done or progress.states[need] is UnitState.DONE for need in unit.needs
            ), "a unit is ready before what it needs"

"""What each class of failure is owed, as a table."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.domain import FailureClass
from orchestrator.schedule.retry import MAX_DELAY, POLICY, Action, after

RETRY, QUARANTINE, GIVE_UP, STOP = Action.RETRY, Action.QUARANTINE, Action.GIVE_UP, Action.STOP_RUN


def story(kind, *, alone, tries=12):
    """The actions after one failure of this class after another."""
    counts, actions = Counter(), []
    for _ in range(tries):
        counts[kind] += 1
        decision = after(kind, counts, was_alone=alone)
        actions.append(decision.action)
        if decision.action is not RETRY:
            break
    return actions


@pytest.mark.parametrize(
    ("kind", "actions"),
    [
        (FailureClass.BAD_INPUT, [QUARANTINE]),
        (FailureClass.CHANGED, [GIVE_UP]),
        (FailureClass.UPSTREAM, [GIVE_UP]),
        (FailureClass.PERMISSION, [STOP]),
        (FailureClass.CLUSTER, [STOP]),
        (FailureClass.POISON, [RETRY, RETRY, QUARANTINE]),
        (FailureClass.MEMORY, [RETRY, RETRY, QUARANTINE]),
        (FailureClass.TIMEOUT, [RETRY, GIVE_UP]),
        (FailureClass.INTERNAL, [RETRY, GIVE_UP]),
        (FailureClass.ENVIRONMENT, [RETRY, RETRY, STOP]),
        (FailureClass.INFRASTRUCTURE, [RETRY] * 7 + [GIVE_UP]),
        (FailureClass.STORAGE, [RETRY] * 7 + [GIVE_UP]),
    ],
)
def test_each_class_gets_its_tries_and_then_its_end(kind, actions):
    assert story(kind, alone=True) == actions


def test_every_class_has_a_policy():
    assert set(POLICY) == set(FailureClass)


def test_preemption_is_free():
    assert set(story(FailureClass.PREEMPTION, alone=True, tries=500)) == {RETRY}


def test_nothing_is_retried_for_ever():
    for kind in FailureClass:
        assert story(kind, alone=True, tries=2_000)[-1] is not RETRY


@pytest.mark.parametrize(
    "kind", [FailureClass.POISON, FailureClass.MEMORY, FailureClass.TIMEOUT, FailureClass.INTERNAL]
)
def test_in_company_nobody_is_blamed(kind):
    decision = after(kind, Counter({kind: 99}), was_alone=False)
    assert decision.action is RETRY
    assert decision.alone


def test_memory_and_time_grow_with_each_try():
    assert after(FailureClass.MEMORY, Counter(), was_alone=True).memory_factor == 2.0
    assert after(FailureClass.TIMEOUT, Counter(), was_alone=True).deadline_factor == 1.5


def test_delays_double_up_to_a_limit():
    delays = [
        after(FailureClass.STORAGE, {FailureClass.STORAGE: n}, was_alone=True).delay for n in range(1, 8)
    ]
    assert delays == [2, 4, 8, 16, 32, 64, 128]
    assert max(delays) <= MAX_DELAY


def test_a_decision_says_why():
    assert (
        after(FailureClass.STORAGE, {FailureClass.STORAGE: 3}, was_alone=True).reason == "storage: try 4 of 8"
    )

"""Who may take a lease, as a table and as every order of events that hypothesis thinks of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import NotSupported
from orchestrator.leases import NOBODY, Lease, acquire, claimed
from orchestrator.simulation.store import Flaw, MemoryStore


def lease(owner="a", epoch=3, expires=100.0):
    return Lease(owner=owner, epoch=epoch, expires=expires)


@pytest.mark.parametrize(
    ("current", "owner", "at", "expected"),
    [
        (None, "b", 0.0, lease("b", 1, 10.0)),
        (lease("a"), "b", 99.9, None),
        (lease("a"), "b", 100.0, lease("b", 4, 110.0)),
        (lease("a"), "b", 5000.0, lease("b", 4, 5010.0)),
        (lease("a"), "a", 95.0, lease("a", 3, 105.0)),
        (lease("a"), "a", 10.0, lease("a", 3, 100.0)),
        (lease("a"), "a", 100.0, lease("a", 4, 110.0)),
        (lease(NOBODY, 3, 0.0), "b", 0.0, lease("b", 4, 10.0)),
        (lease(NOBODY, 3, 500.0), "b", 0.0, lease("b", 4, 10.0)),
    ],
)
def test_who_gets_it_until_when_and_in_which_epoch(current, owner, at, expected):
    assert claimed(current, owner, at, 10.0) == expected


OWNERS = st.sampled_from(["a", "b", "c"])
TIMES = st.floats(min_value=0, max_value=1000, allow_nan=False)


@given(st.lists(st.tuples(OWNERS, TIMES, st.floats(min_value=0.1, max_value=200))))
def test_epochs_only_grow_and_each_has_one_owner_whatever_the_clocks_say(claims):
    current, owners = None, {}
    for owner, at, seconds in claims:
        taken = claimed(current, owner, at, seconds)
        if taken is None:
            assert current.owner not in (owner, NOBODY)
            assert current.expires > at
            continue
        assert taken.owner == owner
        assert taken.expires >= at + seconds
        if current is not None:
            assert taken.epoch in (current.epoch, current.epoch + 1)
        assert owners.setdefault(taken.epoch, owner) == owner
        current = taken


@given(OWNERS, OWNERS, TIMES, TIMES)
def test_nobody_loses_a_lease_before_its_time(owner, other, at, later):
    first = claimed(None, owner, at, 50.0)
    second = claimed(first, other, later, 50.0)
    if owner != other and later < at + 50.0:
        assert second is None


def test_a_store_is_asked_once_whether_it_keeps_the_conditions_of_writes():
    store = MemoryStore()
    assert acquire(store, "one", "a", 0.0, 10.0)
    before = store.writes
    assert acquire(store, "two", "a", 0.0, 10.0)
    assert store.writes == before + 1
    with pytest.raises(NotSupported, match="ignores the conditions"):
        acquire(MemoryStore(flaws={Flaw.IGNORES_IF_MATCH}), "one", "a", 0.0, 10.0)

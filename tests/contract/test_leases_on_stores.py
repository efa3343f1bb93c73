"""Leases on every store: exactly one holder an epoch, whoever races for it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from orchestrator import leases
from orchestrator.errors import Damaged, NotSupported, StoreError
from orchestrator.leases import acquire, holder, lease_key, release, renew

RACERS = 4


def race(count, work):
    """The answers of so many threads that begin together."""
    barrier = threading.Barrier(count)

    def run(number):
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_a_lease_is_taken_renewed_refused_to_others_and_given_back(store):
    held = acquire(store, "gc", "a", at=0.0, seconds=60.0)
    assert held.lease.epoch == 1
    assert acquire(store, "gc", "b", at=59.0, seconds=60.0) is None
    longer = renew(store, held, at=50.0, seconds=60.0)
    assert longer.lease.expires == 110.0
    assert acquire(store, "gc", "b", at=100.0, seconds=60.0) is None
    assert renew(store, held, at=60.0, seconds=60.0) is None, "an etag serves once"
    assert release(store, longer)
    assert holder(store, "gc").owner == leases.NOBODY
    assert acquire(store, "gc", "b", at=100.0, seconds=60.0).lease.epoch == 2
    assert not release(store, longer), "what is no longer ours cannot be given back"
    assert holder(store, "gc").owner == "b"


def test_who_was_taken_over_learns_it_at_the_next_renewal(store):
    slow = acquire(store, "night", "slow", at=0.0, seconds=10.0)
    taken = acquire(store, "night", "next", at=10.0, seconds=10.0)
    assert taken.lease.epoch == slow.lease.epoch + 1
    assert renew(store, slow, at=10.5, seconds=10.0) is None
    assert not release(store, slow)
    assert holder(store, "night") == taken.lease


def test_the_same_owner_finds_its_lease_again_after_a_restart(store):
    first = acquire(store, "night", "a", at=0.0, seconds=60.0)
    again = acquire(store, "night", "a", at=30.0, seconds=60.0)
    assert (again.lease.epoch, again.lease.expires) == (first.lease.epoch, 90.0)


@pytest.mark.parametrize("store_spec", ["local", pytest.param("ceph", marks=pytest.mark.s3)], indirect=True)
def test_of_many_that_race_one_holds_it_and_one_takes_it_over(store, open_again):
    stores = [open_again() for _ in range(RACERS)]
    for round_ in range(3):
        at = round_ * 100.0
        won = [w for w in race(RACERS, lambda n, at=at: acquire(stores[n], "gc", f"{n}", at, 50.0)) if w]
        assert len(won) == 1
        assert won[0].lease.epoch == round_ + 1
        assert holder(store, "gc") == won[0].lease


def test_no_epoch_ever_has_two_owners_when_clocks_jump_and_holders_stall(store, open_again):
    stores = [open_again() for _ in range(RACERS)]
    seen, lock = {}, threading.Lock()

    def work(number):
        draw, mine = Random(number), None
        for _ in range(5):
            at = draw.uniform(0, 300)
            mine = renew(stores[number], mine, at, 20.0) if mine and draw.random() < 0.5 else None
            mine = mine or acquire(stores[number], "gc", f"{number}", at, 20.0)
            if mine:
                with lock:
                    seen.setdefault(mine.lease.epoch, set()).add(mine.lease.owner)
            if mine and draw.random() < 0.3:
                release(stores[number], mine)
                mine = None

    race(RACERS, work)
    assert seen
    assert all(len(owners) == 1 for owners in seen.values()), seen
    assert holder(store, "gc").epoch == max(seen)


def test_what_is_no_lease_is_told_and_never_overwritten(store):
    for data in (
        b"",
        b"no json",
        b"[]",
        b'{"owner": 1, "epoch": 1, "expires": 0}',
        b'{"owner": "", "epoch": 0, "expires": 0}',
    ):
        store.put(lease_key("gc"), data)
        with pytest.raises(Damaged, match=r"leases/gc\.json .* is no lease"):
            holder(store, "gc")
        with pytest.raises(Damaged, match=r"leases/gc\.json .* is no lease"):
            acquire(store, "gc", "a", at=0.0, seconds=60.0)
        assert store.get(lease_key("gc")) == data


def test_nothing_is_left_of_the_look_at_what_the_store_can_do(store):
    acquire(store, "gc", "a", at=0.0, seconds=60.0)
    assert [found.key for found in store.list("")] == [lease_key("gc")]


class Wrapped:
    """A store that behaves otherwise in what a test overrides."""

    def __init__(self, store):
        self.store = store

    def __getattr__(self, name):
        return getattr(self.store, name)


def test_a_store_without_swaps_says_so(store):
    class Without(Wrapped):
        def swap(self, key, data, etag):
            raise NotSupported("501")

    with pytest.raises(NotSupported):
        acquire(Without(store), "gc", "a", at=0.0, seconds=60.0)
    assert list(store.list("")) == []


def test_a_store_that_ignores_the_condition_is_found_out(store):
    class Ignoring(Wrapped):
        def swap(self, key, data, etag):
            self.store.put(key, data)
            return "some etag"

    with pytest.raises(NotSupported, match="UNSAFE"):
        acquire(Ignoring(store), "gc", "a", at=0.0, seconds=60.0)
    assert list(store.list("")) == []


def test_a_store_whose_swaps_never_win_is_found_out(store):
    class Refusing(Wrapped):
        def swap(self, key, data, etag):
            return None

    with pytest.raises(NotSupported):
        acquire(Refusing(store), "gc", "a", at=0.0, seconds=60.0)


def test_a_name_that_is_no_key_is_refused(store):
    with pytest.raises(StoreError, match="cannot be a key"):
        acquire(store, "../gc", "a", at=0.0, seconds=60.0)

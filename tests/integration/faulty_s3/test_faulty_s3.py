"""A real S3 server behind a network that refuses, breaks off, cuts and flips: nothing is lost, doubled or believed.

`pytest -m soak -s tests/integration/faulty_s3/test_faulty_s3.py` runs 10,000 units and prints the figures.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cases.faulty_networks import (
    AMBIGUOUS,
    BAD_NIGHT,
    THREADS,
    Offered,
    Place,
    check_stored,
    persist,
    requests_without_faults,
    run_units,
)
from cases.store_calls import calls_of
from servers.fault_proxy import FAULTS, FaultProxy, Rates

from orchestrator.errors import NotPermitted, PrunefleetError, StoreError, Unreachable
from orchestrator.stores.local import LocalStore
from orchestrator.tables import folding, results, schemas
from orchestrator.tables.delta import read_table
from orchestrator.tables.folding import fold

pytestmark = pytest.mark.s3


def test_a_good_night_passes_through_unchanged(
    place: Place, proxy: FaultProxy, offer: Callable[[int], Offered]
) -> None:
    assert requests_without_faults(place, proxy, offer(12)) == 3
    assert not set(proxy.counts) & set(FAULTS)


def test_every_unit_of_a_bad_night_finishes_and_nothing_corrupt_is_believed(
    place: Place, proxy: FaultProxy, offer: Callable[[int], Offered]
) -> None:
    proxy.reset(replace(BAD_NIGHT, flip_answer=0.01, flip_request=0.01))
    offered = offer(200)
    assert run_units(place.store, offered) == {1: 200}, (
        "no unit is tried again, for the store itself persists"
    )
    counts = proxy.counts
    assert set(FAULTS) - {"error"} <= set(counts), "every fault came"
    assert counts["requests"] <= 2 * 3 * 200
    check_stored(place.behind, offered)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ten_thousand_units_of_a_bad_night(
    place: Place, proxy: FaultProxy, offer: Callable[[int], Offered]
) -> None:
    offered = offer(10_000)
    began = time.monotonic()
    proxy.reset(BAD_NIGHT)
    tries = run_units(place.store, offered)
    counts, seconds = proxy.counts, time.monotonic() - began
    check_stored(place.behind, offered)
    amplification = counts["requests"] / (3 * len(offered))
    print(
        f"\n{len(offered)} units in {seconds:.0f} s; tries: {dict(tries)}; {amplification:.3f}x requests; {counts}"
    )
    assert set(tries) <= {1, 2}
    assert amplification <= 2


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("is_same", [False, True], ids=["other bytes", "same bytes"])
def test_of_racers_whose_answers_are_lost_exactly_one_is_told_that_it_won(
    place: Place, proxy: FaultProxy, is_same: bool
) -> None:
    proxy.reset(AMBIGUOUS)

    def race(number: int) -> bool:
        key, racer = divmod(number, 4)
        data = b"the same" if is_same else f"racer {racer}".encode()
        return bool(persist(lambda: place.store.put_if_absent(f"race/{key}", data))[0])

    with ThreadPoolExecutor(THREADS) as pool:
        won = list(pool.map(race, range(4 * 40)))
    for key in range(40):
        answers = won[4 * key : 4 * key + 4]
        assert answers.count(True) == 1, f"key {key}: {answers}"
        stored = place.behind.get(f"race/{key}")
        assert stored == (b"the same" if is_same else f"racer {answers.index(True)}".encode())
    assert proxy.counts["reset_after"] > 20


@pytest.mark.usefixtures("short_pauses")
def test_no_swap_is_told_to_have_won_that_did_not(place: Place, proxy: FaultProxy) -> None:
    """Each value names its writer; whoever was told that it won stands in the chain of values, once."""
    first = place.behind.swap("register", b"start", None)
    assert first
    proxy.reset(AMBIGUOUS)

    def add(writer: int) -> list[str]:
        won = []
        for number in range(8):
            etag = persist(lambda: place.store.stat("register"))[0].etag
            before = persist(lambda: place.store.get("register"))[0].decode()
            name = f"{writer}.{number}"
            try:
                new = place.store.swap("register", f"{before},{name}".encode(), etag)
            except (StoreError, Unreachable):
                continue
            won += [name] if new else []
        return won

    with ThreadPoolExecutor(4) as pool:
        won = [name for names in pool.map(add, range(4)) for name in names]
    chain = place.behind.get("register").decode().split(",")
    assert set(won) <= set(chain)
    assert len(chain) == len(set(chain))
    assert len(won) >= 8


@pytest.mark.usefixtures("short_pauses")
def test_a_listing_that_lies_hides_what_is_done_and_invents_nothing_that_is_wanted(
    place: Place, proxy: FaultProxy, offer: Callable[[int], Offered]
) -> None:
    """Nothing protects a listing over plain HTTP: what is left out is looked up again, what is invented nobody wants."""
    offered = offer(40)
    done = dict(list(offered.items())[:20])
    run_units(place.behind, done)
    proxy.reset(Rates(flip_answer=0.8, cut=0.2, only="GET .*list-type"))
    seen = Counter[str]()
    for _ in range(25):
        try:
            found = {
                stat.key.rpartition("/")[2].removesuffix(".arrow") for stat in place.store.list("results/")
            }
        except (StoreError, Unreachable):
            seen["refused"] += 1
        else:
            assert found & offered.keys() <= done.keys()
            seen["whole" if found == done.keys() else "changed"] += 1
    assert min(seen["refused"], seen["whole"], seen["changed"]) > 0, seen


def rows(store: Any) -> dict[str, list[Any]]:
    """Every folded table's rows, in an order of their own."""
    tables = {name: read_table(store, name) for name in schemas.FOLDED}
    return {name: sorted(table.to_table().to_pylist(), key=repr) for name, table in tables.items()}


TABLE_NIGHTS = {
    "bad night": replace(BAD_NIGHT, flip_answer=0, cut=0.02, flip_request=0.01),
    "ambiguous": Rates(slow_down=0.02, reset_before=0.03, reset_after=0.06, error_after=0.05),
}


"""No flipped answer: a Delta log carries no digest, so that over plain HTTP nothing would find it."""


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("night", TABLE_NIGHTS)
def test_tables_folded_through_a_bad_network_are_exact(
    place: Place,
    proxy: FaultProxy,
    local_store: LocalStore,
    offer: Callable[[int], Offered],
    monkeypatch: pytest.MonkeyPatch,
    night: str,
) -> None:
    monkeypatch.setattr(folding, "BATCH_UNITS", 4)
    offered = offer(8)
    for store in (place.behind, local_store):
        for key, (task, data) in offered.items():
            results.commit(store, task, key, data)
    fold(local_store)
    proxy.reset(TABLE_NIGHTS[night])
    folded, tries = persist(lambda: fold(place.store))
    assert tries <= 2
    assert folded.skipped == ()
    assert {"reset_after", "slow_down"} <= set(proxy.counts)
    assert rows(place.behind) == rows(local_store)


@pytest.mark.parametrize("status", [403, 400])
def test_expired_credentials_are_not_permitted_and_told_at_once(
    place: Place, proxy: FaultProxy, tmp_path: Path, offer: Callable[[int], Offered], status: int
) -> None:
    """AWS answers 400 to some and 403 to others."""
    for key, (task, data) in offer(2).items():
        results.commit(place.store, task, key, data)
    fold(place.store)
    (tmp_path / "small").write_bytes(b"1")
    (tmp_path / "large").write_bytes(bytes(17 << 20))
    proxy.refusal = status
    store, began = place.store, time.monotonic()
    calls: tuple[Callable[[], object], ...] = (
        *calls_of(store),
        lambda: store.upload(tmp_path / "small", "small"),
        lambda: store.upload(tmp_path / "large", "large"),
        lambda: store.download("key", tmp_path / "down"),
        lambda: fold(store),
        lambda: read_table(store, "units"),
    )
    for call in calls:
        with pytest.raises(NotPermitted, match="expired|credentials|until when") as told:
            call()
        assert str(told.value).isprintable()
    assert time.monotonic() - began < 20, "nothing that cannot pass is repeated"


def test_a_server_that_goes_down_is_unreachable_in_bounded_time_and_welcome_when_it_is_back(
    place: Place, proxy: FaultProxy, tmp_path: Path, offer: Callable[[int], Offered]
) -> None:
    for key, (task, data) in offer(2).items():
        results.commit(place.store, task, key, data)
    fold(place.store)
    (tmp_path / "large").write_bytes(bytes(17 << 20))
    store = place.store
    calls: tuple[Callable[[], object], ...] = (
        *calls_of(store),
        lambda: store.upload(tmp_path / "large", "large"),
        lambda: store.download("key", tmp_path / "down"),
        lambda: fold(store),
        lambda: read_table(store, "units"),
    )

    def raised(call: Callable[[], object]) -> tuple[type[BaseException], float]:
        began = time.monotonic()
        with pytest.raises(PrunefleetError) as told:
            call()
        return told.type, time.monotonic() - began

    with proxy.down(), ThreadPoolExecutor(len(calls)) as pool:
        ended = list(pool.map(raised, calls))
    assert {kind for kind, _ in ended} == {Unreachable}
    assert max(seconds for _, seconds in ended) < 60
    assert store.put_if_absent("key", b"1")
    assert fold(store).units == 0

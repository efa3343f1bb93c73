"""Nights of a bad network, a bucket seen through it, and what a worker asks of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from servers.fault_proxy import FaultProxy, Rates

from orchestrator.domain import FailureClass
from orchestrator.errors import StoreError, Unreachable
from orchestrator.schedule.retry import POLICY
from orchestrator.stores.s3 import S3Store
from orchestrator.tables import results

BAD_NIGHT = Rates(
    slow_down=0.2, cut=0.01, flip_answer=0.001, flip_request=0.001, reset_before=0.01, reset_after=0.01,
    error_after=0.005, delay=0.05, delay_seconds=0.02,
)  # fmt: skip


WORSE = replace(BAD_NIGHT, cut=0.05, flip_answer=0.05, flip_request=0.05)


AMBIGUOUS = Rates(slow_down=0.1, reset_before=0.05, reset_after=0.15, error_after=0.1)


THREADS = 16


Offered = dict[str, tuple[str, bytes]]


"""Unit key -> its task and the bytes of its result."""


@dataclass(frozen=True)
class Place:
    """One bucket, seen through the network and from behind it."""

    store: S3Store
    behind: S3Store


def persist(act: Callable[[], Any], tries: int = POLICY[FailureClass.STORAGE].tries) -> tuple[Any, int]:
    """What it gives at last, as often as a unit that the store failed is tried; and how often it was."""
    for count in range(1, tries):
        try:
            return act(), count
        except (StoreError, Unreachable):
            continue
    return act(), tries


def work(store: S3Store, key: str, task: str, data: bytes) -> int:
    """What a worker asks of the store for one unit: is it done, make it real, read it again. The tries that it took."""

    def unit() -> None:
        if store.stat(results.result_key(task, key)) is None:
            results.commit(store, task, key, data)
        assert results.read(store, task, key).content_sha256 == results.decode(data).content_sha256

    return persist(unit)[1]


def run_units(store: S3Store, offered: Offered) -> Counter[int]:
    """All units, many at once; how many took how many tries."""
    with ThreadPoolExecutor(THREADS) as pool:
        return Counter(pool.map(lambda item: work(store, item[0], *item[1]), offered.items()))


def check_stored(behind: S3Store, offered: Offered) -> None:
    """Every object once, with exactly the bytes that were offered."""
    there = [found.key for found in behind.list("results/")]
    assert sorted(there) == sorted(results.result_key(task, key) for key, (task, _) in offered.items())
    with ThreadPoolExecutor(THREADS) as pool:
        stored = pool.map(lambda item: behind.get(results.result_key(item[1][0], item[0])), offered.items())
        assert all(got == data for got, (_, data) in zip(stored, offered.values(), strict=True))


def requests_without_faults(place: Place, proxy: FaultProxy, offered: Offered) -> float:
    """Requests that a unit takes on a good night."""
    proxy.reset()
    assert run_units(place.store, offered) == {1: len(offered)}
    check_stored(place.behind, offered)
    return proxy.counts["requests"] / len(offered)

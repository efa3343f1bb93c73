"""A real S3 server behind a network with faults, and what is offered to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cases.faulty_networks import Offered, Place
from servers.ceph import S3Server
from servers.fault_proxy import FaultProxy

from orchestrator.spec import StoreSpec
from orchestrator.stores.s3 import S3Store
from orchestrator.tables import results


@pytest.fixture(scope="module")
def proxy(ceph: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy.serve(ceph.endpoint, seed=7) as server:
        yield server


@pytest.fixture
def place(ceph: S3Server, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    for name, value in ceph.environment.items():
        monkeypatch.setenv(name, value)
    proxy.reset()
    url = f"s3://{ceph.make_bucket()}/prefix"
    specs = [StoreSpec(url=url, endpoint=endpoint) for endpoint in (proxy.endpoint, ceph.endpoint)]
    yield Place(*map(S3Store, specs))
    proxy.reset()


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever pauses between two requests does so for a tenth of the time."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds / 10))


@pytest.fixture
def offer(
    provenance: Callable[..., dict[str, Any]], tables_of: Callable[[int], tuple[str, Any]]
) -> Callable[[int], Offered]:
    """The results of the first units."""

    def make(count: int) -> Offered:
        offered = {}
        for number in range(count):
            task, tables = tables_of(number)
            made = provenance(number, task)
            offered[made["unit_key"]] = task, results.encode(task, tables, made)
        return offered

    return make

"""Effects. The stores that the contract suite runs against, each new and empty."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import ceph

from orchestrator.spec import StoreSpec
from orchestrator.stores.opening import open_store

SERVER = "moto" if ceph.missing() else "ceph"
"""A real S3 server, and a mock only where none can run."""
KINDS = ("local", pytest.param(SERVER, marks=pytest.mark.s3))


@pytest.fixture(params=KINDS)
def store_spec(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreSpec:
    """Where a new, empty store is."""
    if request.param == "local":
        return StoreSpec(url=str(tmp_path / "a store"))
    server = request.getfixturevalue(request.param)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return StoreSpec(url=f"s3://{server.make_bucket()}/some/prefix", endpoint=server.endpoint)


@pytest.fixture
def store(store_spec: StoreSpec) -> Any:
    """A new, empty store of each kind."""
    return open_store(store_spec)


@pytest.fixture
def open_again(store_spec: StoreSpec) -> Callable[[], Any]:
    """Opens the same store once more, as another process would."""
    return lambda: open_store(store_spec)

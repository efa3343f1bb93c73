"""Effects. Fixtures that start S3 servers, for every test of the repository.

`ceph`      session: a real S3 server (Ceph's gateway); skipped, with its reason, where its programs are missing
`moto`      session: a mock that is quick; `ceph` and `moto` give an S3Server: endpoint, key, secret, boto,
            environment, client(), make_bucket()
`scripted`  function: a server whose next answers a test writes down
`mlflow`    session: a real `mlflow server` (uri, python, artifacts); skipped, with its reason, where it is not installed
`hub`       function: a stand-in for the Hugging Face Hub's HTTP interface, for no real one runs here
`s3_store`  function: s3_store(prefix="") is an S3Store in a new bucket on Ceph, with credentials in the environment
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from servers.ceph import S3Server
    from servers.hub import Hub
    from servers.mlflow import Mlflow
    from servers.scripted import Scripted

    from orchestrator.stores.s3 import S3Store


@pytest.fixture(scope="session")
def ceph() -> Iterator[S3Server]:
    """A real S3 server."""
    from servers import ceph as ceph_server

    if reason := ceph_server.missing():
        pytest.skip(reason)
    with ceph_server.serve() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """A mock S3 server."""
    from moto.server import ThreadedMotoServer
    from servers import ceph as ceph_server

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield ceph_server.S3Server(
            endpoint=f"http://{host}:{port}", key=ceph_server.KEY, secret=ceph_server.SECRET
        )
    finally:
        server.stop()


@pytest.fixture(scope="session")
def mlflow() -> Iterator[Mlflow]:
    """A real MLflow server."""
    from servers import mlflow as mlflow_server

    if reason := mlflow_server.missing():
        pytest.skip(reason)
    with mlflow_server.serve() as server:
        yield server


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A stand-in for the Hub, with a token for it in the environment."""
    from servers import hub as hub_server

    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    with hub_server.serve() as server:
        yield server


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    """A server that fails as it is told."""
    from servers.ceph import S3Server
    from servers.scripted import Scripted

    with Scripted.serve() as server:
        for name, value in S3Server(endpoint="", key="key", secret="secret").environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def s3_store(ceph: S3Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., S3Store]:
    """Makes stores on the real server."""
    from orchestrator.spec import StoreSpec
    from orchestrator.stores.s3 import S3Store

    for name, value in ceph.environment.items():
        monkeypatch.setenv(name, value)

    def make(prefix: str = "") -> S3Store:
        url = f"s3://{ceph.make_bucket()}/{prefix}".removesuffix("/")
        return S3Store(StoreSpec(url=url, endpoint=ceph.endpoint))

    return make

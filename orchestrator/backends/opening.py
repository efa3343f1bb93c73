"""Effects. The backend that a name means, connected when a run first needs it; importing this loads neither Ray nor torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.domain import Pool
from orchestrator.errors import UsageError
from orchestrator.ports import Backend, Connect


def choose_backend(name: str, address: str | None) -> Connect:
    """`ray` (a cluster's address, or one started on this machine) or `local` (child processes without Ray).

    Errors: UsageError; NotPermitted, for a cluster beyond this machine without authentication.
    """
    if name == "local":
        if address:
            raise UsageError("--backend local runs on this machine; it has no --address")
        return _local
    if name != "ray":
        raise UsageError(f"there is no backend {name!r}; known: ray, local")
    if address:
        from orchestrator.addresses import check_cluster

        check_cluster(address, os.environ)

    def ray(pools: Mapping[str, Pool], body: Callable[[Any], Any]) -> Backend:
        from orchestrator.backends.ray_backend import connect

        return connect(pools, body, address)

    return ray


def _local(pools: Mapping[str, Pool], body: Callable[[Any], Any]) -> Backend:
    from orchestrator.backends.local_backend import LocalBackend

    return LocalBackend(pools=pools, body=body)

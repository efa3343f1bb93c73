"""Effects. Looks at all that a fleet leans on: libraries, store, registries, data, cluster; one line for each property."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from orchestrator.credentials import known_secrets
from orchestrator.probes.checks import Check, State
from orchestrator.probes.fleets import check_datasets, check_registries
from orchestrator.probes.ground import Effort, Ground
from orchestrator.probes.storage import probe_store
from orchestrator.probes.versions import FLOORS, check_versions
from orchestrator.redaction import redacted
from orchestrator.schedule.placement import pools_of
from orchestrator.spec import Fleet, StoreSpec
from orchestrator.stores.local import LocalStore
from orchestrator.stores.multipart import uploads_of
from orchestrator.stores.opening import open_store


def examine(fleet: Fleet, effort: Effort, address: str | None) -> Iterator[Check]:
    """Every property, as it is found out, without secrets; `address` is a Ray cluster's.

    Writes below `doctor/` in the store and removes it. Errors: SpecError, if the store cannot even be named.
    """
    secrets = known_secrets()
    for check in _examined(fleet, effort, address):
        yield replace(
            check,
            area=redacted(check.area, secrets),
            name=redacted(check.name, secrets),
            seen=redacted(check.seen, secrets),
            follows=redacted(check.follows, secrets),
            advice=redacted(check.advice, secrets),
        )


def _examined(fleet: Fleet, effort: Effort, address: str | None) -> Iterator[Check]:
    yield from check_versions(installed_versions())
    store_checks = check_store(fleet.store, effort)
    yield from store_checks
    with tempfile.TemporaryDirectory(prefix="pf-") as nothing_known:
        answers = store_checks[0].state in (State.OK, State.WARNING)
        memory = open_store(fleet.store) if answers else LocalStore(Path(nothing_known))
        yield from check_registries(fleet, memory, time.time())
    yield from check_datasets(fleet)
    if fleet.clusters:
        from orchestrator.probes.doors import check_doors

        yield from check_doors(fleet, os.environ)
    if address is not None:
        from orchestrator.probes.clusters import check_cluster

        yield from check_cluster(pools_of(fleet), address)


def check_store(spec: StoreSpec, effort: Effort) -> tuple[Check, ...]:
    """Probes the store with a connection for each racer."""
    stores = [open_store(spec) for _ in range(effort.racers)]
    return probe_store(Ground(stores=stores, effort=effort, partial=uploads_of(stores[0])))


def installed_versions() -> dict[str, str]:
    """Of the libraries that have a floor, those that are installed here."""
    found = {}
    for floor in FLOORS:
        try:
            found[floor.package] = version(floor.package)
        except PackageNotFoundError:
            continue
    return found

"""Effects. Scans a fleet's registries into one catalog, with what the last scan remembers in the store."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from itertools import chain
from typing import NamedTuple

from orchestrator.domain import Catalog, Impossible, ModelVersion
from orchestrator.errors import NotFound, NotPermitted, PrunefleetError, RegistryError, Unreachable
from orchestrator.ports import ObjectStore
from orchestrator.registries.memory import DigestMemory, dump_memory, load_memory
from orchestrator.registries.opening import open_registry
from orchestrator.spec import Fleet


class Scan(NamedTuple):
    """What a scan found, and what it could not look at."""

    catalog: Catalog
    impossible: tuple[Impossible, ...]
    """Registries that some recipe wants and that cannot be read: to be listed beside the plan's own."""
    warnings: tuple[str, ...]


def scan(fleet: Fleet, store: ObjectStore, at: float) -> Scan:
    """Every model version of every registry that some recipe matches; `at` is now, in seconds since the epoch.

    Errors: RegistryError, if no registry can be read; those of the store.
    """
    found: dict[str, tuple[ModelVersion, ...]] = {}
    failed: dict[str, PrunefleetError] = {}
    warnings: list[str] = []
    for name in wanted_registries(fleet):
        memory, stored = _remembered(store, name, at, warnings)
        try:
            found[name] = _versions(fleet, name, memory)
        except (RegistryError, Unreachable, NotPermitted) as error:
            failed[name] = error
        else:
            _remember(store, name, memory, stored, warnings)
    impossible = tuple(
        Impossible(subject=f"registry {name}", recipe=", ".join(_wanting(fleet, name)), reason=str(error))
        for name, error in failed.items()
    )
    if failed and not found:
        raise _worst(failed)
    return Scan(Catalog(versions=tuple(chain.from_iterable(found.values()))), impossible, tuple(warnings))


def _worst(failed: Mapping[str, PrunefleetError]) -> PrunefleetError:
    """One error that tells all; not permitted only where nothing else is wrong."""
    told = "\n".join(f"registry {name}: {error}" for name, error in failed.items())
    is_denied = all(isinstance(error, NotPermitted) for error in failed.values())
    return NotPermitted(told) if is_denied else RegistryError(told)


def scan_registry(
    fleet: Fleet, name: str, store: ObjectStore, at: float, warnings: list[str]
) -> tuple[ModelVersion, ...]:
    """Every version of one registry, with what the store remembers of it; adds to `warnings`.

    Errors: RegistryError, Unreachable, NotPermitted; those of the store.
    """
    memory, stored = _remembered(store, name, at, warnings)
    versions = _versions(fleet, name, memory)
    _remember(store, name, memory, stored, warnings)
    return versions


def _remembered(
    store: ObjectStore, name: str, at: float, warnings: list[str]
) -> tuple[DigestMemory, bytes | None]:
    """What the store remembers of a registry, and its bytes."""
    stored = _get(store, memory_key(name))
    memory, problem = load_memory(stored, at)
    if problem:
        warnings.append(
            f"{memory_key(name)} in the store is ignored and every file of it read again: {problem}"
        )
    return memory, stored


def _remember(
    store: ObjectStore, name: str, memory: DigestMemory, stored: bytes | None, warnings: list[str]
) -> None:
    data = dump_memory(memory)
    if data == stored:
        return
    try:
        store.put(memory_key(name), data)
    except NotPermitted as error:  # whoever may only read can still plan
        warnings.append(f"all of registry {name} is read again next time, for nothing could be kept: {error}")


def wanted_registries(fleet: Fleet) -> tuple[str, ...]:
    """Names of the registries that some recipe matches, in the fleet's order."""
    return tuple(name for name in fleet.registries if _wanting(fleet, name))


def memory_key(registry: str) -> str:
    """Where the store keeps what is remembered of a registry."""
    return f"catalog/{registry}.json"


def _wanting(fleet: Fleet, registry: str) -> list[str]:
    return [
        name for name, recipe in fleet.recipes.items() if fnmatch.fnmatchcase(registry, recipe.match.registry)
    ]


def _versions(fleet: Fleet, name: str, memory: DigestMemory) -> tuple[ModelVersion, ...]:
    spec = fleet.registries[name]
    try:
        return tuple(open_registry(name, spec, memory).scan())
    except RegistryError as error:
        is_target = any(
            recipe.publish and recipe.publish.registry == name for recipe in fleet.recipes.values()
        )
        if is_target and isinstance(error.__cause__, FileNotFoundError):
            return ()  # the first publication makes it
        raise


def _get(store: ObjectStore, key: str) -> bytes | None:
    try:
        return store.get(key)
    except NotFound:
        return None

"""Effects. The registry that a fleet names, ready to scan or to fetch from."""

from __future__ import annotations

from pathlib import Path

from orchestrator.ports import Outlet, Registry
from orchestrator.registries.directory import DirectoryRegistry
from orchestrator.registries.directory_outlet import DirectoryOutlet
from orchestrator.registries.memory import DigestMemory
from orchestrator.registryspec import RegistrySpec


def open_registry(name: str, spec: RegistrySpec, memory: DigestMemory | None = None) -> Registry:
    """A registry by its name and spec; `memory` spares a scan the files that it already knows."""
    return DirectoryRegistry(name, Path(spec.path), memory)


def open_outlet(name: str, spec: RegistrySpec) -> Outlet:
    """The writing side of a registry, by its name and spec; nothing is written yet."""
    return DirectoryOutlet(name, Path(spec.path))

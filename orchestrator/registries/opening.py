"""Effects. The registry that a fleet names, ready to scan or to fetch from."""

from __future__ import annotations

from pathlib import Path

from orchestrator.ports import Registry
from orchestrator.registries.directory import DirectoryRegistry
from orchestrator.registries.memory import DigestMemory
from orchestrator.spec import DirectoryRegistrySpec


def open_registry(name: str, spec: DirectoryRegistrySpec, memory: DigestMemory | None = None) -> Registry:
    """A registry by its name and spec; `memory` spares a scan the files that it already knows."""
    return DirectoryRegistry(name, Path(spec.path), memory)

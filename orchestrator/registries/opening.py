"""Effects. The registry that a fleet names, ready to scan, to fetch from or to publish to."""

from __future__ import annotations

from pathlib import Path

from orchestrator.ports import Outlet, Registry
from orchestrator.registries.directory import DirectoryRegistry
from orchestrator.registries.directory_outlet import DirectoryOutlet
from orchestrator.registries.memory import DigestMemory
from orchestrator.registries.remote import RemoteRegistry, Source
from orchestrator.specs.registries import (
    DirectoryRegistrySpec,
    HuggingFaceRegistrySpec,
    MlflowRegistrySpec,
    RegistrySpec,
    S3RegistrySpec,
)


def open_registry(name: str, spec: RegistrySpec, memory: DigestMemory | None = None) -> Registry:
    """A registry by its name and spec; `memory` spares a scan the files that it already knows."""
    if isinstance(spec, DirectoryRegistrySpec):
        return DirectoryRegistry(name, Path(spec.path), memory)
    return RemoteRegistry(name, _source(spec), spec.select, memory)


def open_outlet(name: str, spec: RegistrySpec) -> Outlet:
    """The writing side of a registry, by its name and spec; nothing is written yet."""
    match spec:
        case DirectoryRegistrySpec():
            return DirectoryOutlet(name, Path(spec.path))
        case S3RegistrySpec():
            from orchestrator.registries.s3_outlet import S3Outlet

            return S3Outlet(name, spec)
        case MlflowRegistrySpec():
            from orchestrator.registries.mlflow_outlet import MlflowOutlet

            return MlflowOutlet(name, spec)
        case HuggingFaceRegistrySpec():
            from orchestrator.registries.hub_outlet import HubOutlet

            return HubOutlet(name, spec)


def _source(spec: S3RegistrySpec | MlflowRegistrySpec | HuggingFaceRegistrySpec) -> Source:
    match spec:
        case S3RegistrySpec():
            from orchestrator.registries.s3 import S3Source

            return S3Source(spec)
        case MlflowRegistrySpec():
            from orchestrator.registries.mlflow import MlflowSource

            return MlflowSource(spec)
        case HuggingFaceRegistrySpec(cache=str() as cache):
            from orchestrator.registries.hub_cache import HubCacheSource

            return HubCacheSource(Path(cache))
        case HuggingFaceRegistrySpec():
            from orchestrator.registries.hub import HubSource

            return HubSource(spec)

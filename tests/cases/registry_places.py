"""Registries of every kind, empty, with what other users of each would do to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from orchestrator.domain import ModelVersion
from orchestrator.identity import digest_bytes, digest_files
from orchestrator.ports import Outlet, Registry
from orchestrator.registries.memory import DigestMemory
from orchestrator.registries.mlflow_server import MlflowServer
from orchestrator.registries.opening import open_outlet, open_registry
from orchestrator.registries.s3 import store_of
from orchestrator.specs.registries import (
    DirectoryRegistrySpec,
    HuggingFaceRegistrySpec,
    MlflowRegistrySpec,
    RegistrySpec,
    S3RegistrySpec,
    Select,
)

Files = Mapping[str, bytes]


_NUMBERS = count(1)


def digest_of(files: Files) -> str:
    return digest_files({name: digest_bytes(data) for name, data in files.items()})


@dataclass
class Place:
    """A registry of some kind that tests write to as its other users would."""

    spec: RegistrySpec
    put: Callable[[str, str, Files], str]
    """put(name, label, files): the version that it is called."""
    remove: Callable[[str, str], None]
    model_name: Callable[[str], str] = lambda name: name
    """What the registry calls a model that prunefleet calls so."""
    prefix: str = ""
    """Before the names of this test's own models, where the server is shared."""

    def registry(self, memory: DigestMemory | None = None, select: Select | None = None) -> Registry:
        spec = self.spec.model_copy(update={"select": select}) if select else self.spec
        return open_registry("zoo", spec, memory)

    def outlet(self) -> Outlet:
        return open_outlet("out", self.spec)

    def scan(self, memory: DigestMemory | None = None) -> list[ModelVersion]:
        return [one for one in self.registry(memory).scan() if one.name.startswith(self.prefix)]


def directory(tmp_path: Path, request: Any) -> Place:
    root = tmp_path / "registry"
    root.mkdir()

    def put(name: str, label: str, files: Files) -> str:
        (root / name / label).mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            (root / name / label / path).parent.mkdir(exist_ok=True)
            (root / name / label / path).write_bytes(data)
        return label

    def remove(name: str, version: str) -> None:
        for path in (root / name / version).iterdir():
            path.unlink()
        (root / name / version).rmdir()

    return Place(DirectoryRegistrySpec(kind="directory", path=str(root)), put, remove)


def s3(tmp_path: Path, request: Any, server_name: str = "moto") -> Place:
    server = request.getfixturevalue(server_name)
    for name, value in server.environment.items():
        request.getfixturevalue("monkeypatch").setenv(name, value)
    spec = S3RegistrySpec(kind="s3", url=f"s3://{server.make_bucket()}/models", endpoint=server.endpoint)
    store = store_of(spec)

    def put(name: str, label: str, files: Files) -> str:
        for path, data in files.items():
            store.put(f"{name}/{label}/{path}", data)
        return label

    def remove(name: str, version: str) -> None:
        for found in list(store.list(f"{name}/{version}/")):
            store.delete(found.key)

    return Place(spec, put, remove)


def ceph(tmp_path: Path, request: Any) -> Place:
    return s3(tmp_path, request, "ceph")


def mlflow(tmp_path: Path, request: Any) -> Place:
    uri = request.getfixturevalue("mlflow").uri
    server, prefix = MlflowServer(uri), f"t{next(_NUMBERS)}x"
    experiment = server.post("experiments/create", name=prefix)["experiment_id"]

    def put(name: str, label: str, files: Files) -> str:
        name = name.replace("/", "--")
        known = server.get("registered-models/search", filter=f"name='{name}'", max_results="1")
        if not known.get("registered_models"):
            server.post("registered-models/create", name=name)
        run = server.post("runs/create", experiment_id=experiment, start_time=1)["run"]["info"]
        place = run["artifact_uri"].removeprefix("mlflow-artifacts:/")
        for path, data in files.items():
            (tmp_path / "sent").write_bytes(data)
            server.upload(f"{place}/model/{path}", tmp_path / "sent")
        source = f"{run['artifact_uri']}/model"
        made = server.post("model-versions/create", name=name, source=source, run_id=run["run_id"])
        return str(made["model_version"]["version"])

    def remove(name: str, version: str) -> None:
        server.post("model-versions/delete", "DELETE", name=name.replace("/", "--"), version=version)

    def called(name: str) -> str:
        return name.replace("/", "--")

    spec = MlflowRegistrySpec(kind="mlflow", uri=uri, select=Select(name=f"{prefix}*"))
    return Place(spec, put, remove, called, prefix)


def huggingface(tmp_path: Path, request: Any) -> Place:
    hub = request.getfixturevalue("hub")
    spec = HuggingFaceRegistrySpec(kind="huggingface", owner="org", endpoint=hub.endpoint, revisions=("*",))

    def called(name: str) -> str:
        return name if name.startswith("org/") else f"org/{name}"

    def put(name: str, label: str, files: Files) -> str:
        return hub.repository(called(name)).commit(dict(files), branch=label)

    def remove(name: str, version: str) -> None:
        repository = hub.repository(called(name))
        del repository.commits[version]
        repository.branches = {key: one for key, one in repository.branches.items() if one != version}

    return Place(spec, put, remove, called)


MAKERS = {"directory": directory, "s3": s3, "ceph": ceph, "mlflow": mlflow, "huggingface": huggingface}
"""`s3` is a mock, `ceph` is a real server."""


def name(place: Place, text: str) -> str:
    return f"{place.prefix}{text}"

"""Effects. Registered models of an MLflow server: versions, aliases, tags, and the artifacts that the server itself serves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from orchestrator.errors import NoSuchVersion, RegistryError
from orchestrator.identity import digest
from orchestrator.names import problem_of_part
from orchestrator.registries.mlflow_server import MlflowServer, artifact_path
from orchestrator.registries.remote import Offer, RemoteFile
from orchestrator.specs.registries import MlflowRegistrySpec
from tasks.files.modules import MODULES, is_module

READY = "READY"
FLAVORS = ("components/image_processor", "components/tokenizer", "model", "model.sentence_transformer")
"""Where MLflow's own flavors of transformers and sentence_transformers put what their models save."""


class MlflowSource:
    """A Source at an MLflow server. Where a version says that its files are is not believed: see `artifact_path`."""

    def __init__(self, spec: MlflowRegistrySpec):
        self._select = spec.select
        self._server = MlflowServer(spec.uri)

    def offers(self) -> Iterator[Offer]:
        """By name, then number. What slides from one page into the next while others come and go is given once."""
        if self._select.alias is not None:
            yield from self._aliased(self._select.alias)
            return
        seen = set[int]()
        order = ["name ASC", "version_number ASC"]
        for page in self._server.pages("model-versions/search", order_by=order):
            for one in _objects(page.get("model_versions")):
                offer = self._offer(one)
                if (mark := hash((offer.name, offer.version))) not in seen:
                    seen.add(mark)
                    yield offer

    def offer(self, name: str, version: str) -> Offer:
        """One version. Errors: NoSuchVersion."""
        if not version.isdigit():
            raise NoSuchVersion(f"{version} is no version of MLflow's: they are numbers")
        found = self._server.get("model-versions/get", name=name, version=version).get("model_version")
        if not isinstance(found, dict):
            raise NoSuchVersion(f"{name}@{version} is not in {self._server.uri}")
        return self._offer(found)

    def files(self, offer: Offer) -> Mapping[str, RemoteFile]:
        """What lies directly where the version's files are; of a model that a flavor of MLflow's own logged,
        what lies in its folders; and the modules of a sentence encoder. Errors: NoSuchVersion, RegistryError."""
        place = self._place(offer)
        files, folders = self._folder(place)
        if not files and not folders:
            self.offer(offer.name, offer.version)  # it was deleted meanwhile, if this raises
        home, modules = place, folders
        if "config.json" not in files:
            for folder in FLAVORS:
                if folder.split("/")[0] in folders:
                    within, inner = self._folder(f"{place}/{folder}")
                    files = {**within, **files}
                    if MODULES in within:
                        home, modules = f"{place}/{folder}", inner
        if MODULES in files:
            for folder in filter(is_module, modules):
                within, _ = self._folder(f"{home}/{folder}")
                files |= {f"{folder}/{name}": file for name, file in within.items()}
        return files

    def read(self, offer: Offer, path: str, file: RemoteFile, into: Path) -> None:
        """Downloads one file."""
        self._server.download(file.place, into, file.bytes)

    def all_files(self, offer: Offer, into: Path) -> None:
        """Every file of a version, however deep."""
        place = self._place(offer)
        for path, size in _walk(self._server, place):
            (into / path).parent.mkdir(parents=True, exist_ok=True)
            self._server.download(f"{place}/{path}", into / path, size)

    def _folder(self, place: str) -> tuple[dict[str, RemoteFile], set[str]]:
        """Files and folders directly in a folder of the artifact store."""
        found = [one for one in self._server.folder(place) if isinstance(one.get("path"), str)]
        files = {
            one["path"]: RemoteFile(size_of(one), place=f"{place}/{one['path']}")
            for one in found
            if not one.get("is_dir")
        }
        return files, {one["path"] for one in found if one.get("is_dir")}

    def _place(self, offer: Offer) -> str:
        location = offer.place
        if location.startswith(
            ("models:/", "runs:/")
        ):  # names of the server's own, which it alone can resolve
            query = {"name": offer.name, "version": offer.version}
            location = str(self._server.get("model-versions/get-download-uri", **query).get("artifact_uri"))
        return artifact_path(location, self._server.uri)

    def _aliased(self, wanted: str) -> Iterator[Offer]:
        """The versions to which such an alias points, each pinned by its number when its alias is read."""
        for page in self._server.pages("registered-models/search", order_by=["name ASC"]):
            for model in _objects(page.get("registered_models")):
                name = str(model.get("name"))
                if not fnmatchcase(name, self._select.name):
                    continue
                by_version: dict[str, list[str]] = {}
                for alias, version in aliases_of(model).items():
                    by_version.setdefault(version, []).append(alias)
                for version in sorted(by_version, key=_number):
                    if not any(fnmatchcase(alias, wanted) for alias in by_version[version]):
                        continue
                    try:
                        yield replace(self.offer(name, version), aliases=tuple(sorted(by_version[version])))
                    except NoSuchVersion:
                        continue

    def _offer(self, one: Mapping[str, Any]) -> Offer:
        name, version = str(one.get("name")), str(one.get("version"))
        status = str(one.get("status") or READY)
        known = [one.get("source"), one.get("run_id"), one.get("creation_timestamp")]
        return Offer(
            name=name,
            version=version,
            vouched=digest([str(item) for item in known]),
            uri=f"{self._server.uri}/#/models/{name}/versions/{version}",
            tags=tags_of(one),
            problem="" if status == READY else f"its status is {status[:40]}, not {READY}",
            place=str(one.get("source") or ""),
        )


def aliases_of(model: Mapping[str, Any]) -> dict[str, str]:
    """Alias -> version, as a registered model lists them."""
    found = _objects(model.get("aliases"))
    return {str(one["alias"]): str(one["version"]) for one in found if "alias" in one and "version" in one}


def tags_of(version: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a version or a model."""
    return {str(one.get("key")): str(one.get("value") or "") for one in _objects(version.get("tags"))}


def size_of(file: Mapping[str, Any]) -> int:
    """Bytes of a file as it is listed; 0 where that is no number."""
    size = file.get("file_size")
    return int(size) if isinstance(size, int | str) and str(size).isdigit() else 0


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _number(version: str) -> tuple[int, str]:
    return (int(version) if version.isdigit() and len(version) < 19 else 0, version)


def _walk(server: MlflowServer, place: str, below: str = "", depth: int = 8) -> Iterator[tuple[str, int]]:
    for one in server.folder(f"{place}/{below}".rstrip("/")):
        name = str(one.get("path"))
        if why := problem_of_part(name):
            raise RegistryError(f"a file in {place} of {server.uri} cannot be used: {why}")
        path = f"{below}/{name}" if below else name
        if not one.get("is_dir"):
            yield path, size_of(one)
        elif depth:
            yield from _walk(server, place, path, depth - 1)

"""Effects. The writing side of an MLflow server: a run with the files, then a version of them with its lineage as tags.

MLflow numbers versions itself, so an artifact's own name is the tag `prunefleet.label`.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.durable import regular_files
from orchestrator.errors import AliasMoved, NoSuchVersion, RegistryError
from orchestrator.names import problem_of_part, problem_of_path, shown
from orchestrator.registries.mlflow import MlflowSource, aliases_of
from orchestrator.registries.mlflow_server import MlflowServer, artifact_path
from orchestrator.scratch import scratch_directory
from orchestrator.specs.registries import MlflowRegistrySpec

LABEL = "prunefleet.label"
EXPERIMENT = "prunefleet"
_QUOTES = re.compile(r"['\"`\\:%]")


def registered_name(model: str) -> str:
    """What MLflow calls a model: `/` is not allowed there. Errors: RegistryError."""
    if why := problem_of_path(model) or ("it contains a quote, % or :" if _QUOTES.search(model) else ""):
        raise RegistryError(f"{shown(model)!r} cannot be the name of a model: {why}")
    return model.replace("/", "--")


@dataclass(frozen=True, slots=True)
class MlflowShelf:
    """A Shelf: one registered model. MLflow has no locks; who publishes the same twice at once keeps the first."""

    server: MlflowServer
    model: str

    def find(self, label: str) -> str | None:
        """The lowest version with that label."""
        _check_label(label)
        wanted = f"name='{self.model}' and tags.`{LABEL}`='{label}'"
        numbers = [
            int(one["version"])
            for page in self.server.pages("model-versions/search", filter=wanted)
            for one in page.get("model_versions", [])
        ]
        return str(min(numbers)) if numbers else None

    def place(
        self,
        label: str,
        fill: Callable[[Path], None],
        lineage: Mapping[str, str],
        seal: Callable[[Path], None] | None = None,
    ) -> str:
        """Uploads into a run of the experiment `prunefleet`; the version is made when all files are there."""
        _check_label(label)
        with scratch_directory() as aside:
            fill(aside)
            if seal:
                seal(aside)
            run, location = self._run(label, lineage)
            place = artifact_path(location, self.server.uri)
            for path in regular_files(aside):
                self.server.upload(f"{place}/model/{path}", aside / path)
        self.server.post("runs/update", run_id=run, status="FINISHED", end_time=_now())
        made = self.server.post(
            "model-versions/create",
            name=self.model,
            source=f"{location}/model",
            run_id=run,
            description=f"Made by prunefleet from {lineage.get('source', '')} with the recipe {lineage.get('recipe', '')}.",
            tags=_tags({LABEL: label, **{f"prunefleet.{key}": value for key, value in lineage.items()}}),
        )
        version = str(made["model_version"]["version"])
        first = self.find(label) or version
        if first != version:
            self.server.post("model-versions/delete", "DELETE", name=self.model, version=version)
        return first

    def has(self, version: str) -> bool:
        """Whether there is a version of that number."""
        if why := problem_of_part(version):
            raise RegistryError(f"{shown(version)!r} cannot be a version: {why}")
        if not version.isdigit():
            return False
        try:
            self.server.get("model-versions/get", name=self.model, version=version)
        except NoSuchVersion:
            return False
        return True

    def aliases(self) -> Mapping[str, str]:
        """What the registered model lists."""
        return _aliases(self.server, self.model)

    def point(self, alias: str, version: str, previous: str | None) -> None:
        """Sets the alias. MLflow cannot compare and set, so a look just before is all there is."""
        if (current := self.aliases().get(alias)) != previous:
            raise AliasMoved(
                f"{alias} of {self.model} in {self.server.uri} points to {current} by now, not to {previous}; "
                "look at its history, then move it again"
            )
        self.server.post("registered-models/alias", name=self.model, alias=alias, version=version)

    def _run(self, label: str, lineage: Mapping[str, str]) -> tuple[str, str]:
        made = self.server.post(
            "runs/create",
            experiment_id=_experiment(self.server),
            run_name=label,
            start_time=_now(),
            tags=_tags({f"prunefleet.{key}": value for key, value in lineage.items()}),
        )["run"]["info"]
        return str(made["run_id"]), str(made["artifact_uri"])


class MlflowOutlet:
    """An Outlet at an MLflow server."""

    locks = False
    adds = frozenset[str]()

    def __init__(self, name: str, spec: MlflowRegistrySpec):
        self.name = name
        self._source = MlflowSource(spec)
        self._server = MlflowServer(spec.uri)

    @property
    def url(self) -> str:
        """The server's address."""
        return self._server.uri

    @contextmanager
    def shelf(self, model: str, *, make: bool) -> Iterator[MlflowShelf]:
        """The registered model, made if `make`."""
        name = registered_name(model)
        try:
            self._server.get("registered-models/get", name=name)
        except NoSuchVersion as error:
            if not make:
                raise RegistryError(f"{self.url} has no model {name}") from error
            self._make(name)
        yield MlflowShelf(self._server, name)

    def aliases(self, model: str) -> Mapping[str, str]:
        """What the registered model lists; nothing if there is none."""
        try:
            return _aliases(self._server, registered_name(model))
        except NoSuchVersion:
            return {}

    @contextmanager
    def opened(self, model: str, version: str) -> Iterator[Path]:
        """The version's files, downloaded."""
        offer = self._source.offer(registered_name(model), version)
        with scratch_directory() as aside:
            self._source.all_files(offer, aside)
            yield aside

    def probe(self) -> str:
        """Makes a registered model that nobody has, and deletes it."""
        name = f"prunefleet-doctor-{secrets.token_hex(6)}"
        _experiment(self._server)
        self._make(name)
        self._server.post("registered-models/delete", "DELETE", name=name)
        return f"models can be registered at {self.url}"

    def _make(self, name: str) -> None:
        try:
            self._server.post("registered-models/create", name=name)
        except RegistryError:
            self._server.get("registered-models/get", name=name)  # another made it meanwhile, or this raises


def _aliases(server: MlflowServer, model: str) -> dict[str, str]:
    found = server.get("registered-models/get", name=model).get("registered_model")
    aliases = aliases_of(found) if isinstance(found, dict) else {}
    for name in (*aliases, *aliases.values()):
        if why := problem_of_part(name):
            raise RegistryError(f"an alias of {model} in {server.uri} cannot be used: {shown(name)!r}: {why}")
    return aliases


def _experiment(server: MlflowServer) -> str:
    """The id of our experiment, made where there is none."""
    try:
        found = server.get("experiments/get-by-name", experiment_name=EXPERIMENT)
    except NoSuchVersion:
        return str(server.post("experiments/create", name=EXPERIMENT)["experiment_id"])
    return str(found["experiment"]["experiment_id"])


def _check_label(label: str) -> None:
    if why := problem_of_part(label) or ("it contains a quote, % or :" if _QUOTES.search(label) else ""):
        raise RegistryError(f"{shown(label)!r} cannot be a version: {why}")


def _tags(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value[:5000]} for key, value in values.items()]


def _now() -> int:
    return int(time.time() * 1000)

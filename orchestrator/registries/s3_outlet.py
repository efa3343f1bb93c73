"""Effects. The writing side of a registry in a bucket: versions with their list of files last, aliases by compare-and-swap."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.durable import regular_files, sha256_of
from orchestrator.errors import AliasMoved, NotPermitted, RegistryError, StoreError
from orchestrator.names import problem_of_part, problem_of_path, shown
from orchestrator.registries.aliasfile import FILE, alias_text
from orchestrator.registries.model_files import CONFIG
from orchestrator.registries.remote import RemoteFile, saying_what_failed
from orchestrator.registries.s3 import BEGUN, LISTING, S3Source, read_alias_object, store_of
from orchestrator.scratch import scratch_directory
from orchestrator.specs.registries import S3RegistrySpec
from orchestrator.stores.s3 import S3Store

_SWAPS = 16
"""How often a swap is tried that lost to the move of another alias of the same model."""


@dataclass(frozen=True, slots=True)
class S3Shelf:
    """A Shelf: one model's folder in a bucket. Nobody is locked out; what collides is decided by the store."""

    store: S3Store
    model: str

    def find(self, label: str) -> str | None:
        """A version of that name whose list of files is there."""
        return label if self.store.stat(f"{self._place(label)}/{LISTING}") else None

    def place(
        self,
        label: str,
        fill: Callable[[Path], None],
        lineage: Mapping[str, str],
        seal: Callable[[Path], None] | None = None,
    ) -> str:
        """Says that it has begun, puts the files, the config last of them, and then the list of those that no seal made."""
        place = self._place(label)
        with scratch_directory() as aside, saying_what_failed():
            fill(aside)
            files = {
                path: {"bytes": (aside / path).stat().st_size, "sha256": sha256_of(aside / path)}
                for path in sorted(regular_files(aside))
            }
            (aside / LISTING).write_text(json.dumps({"files": files, "lineage": dict(lineage)}, indent=1))
            if seal:
                seal(aside)
            self.store.put(f"{place}/{BEGUN}", json.dumps(dict(lineage)).encode())
            for path in sorted(
                regular_files(aside), key=lambda path: (path == LISTING, path == CONFIG, path)
            ):
                self.store.upload(aside / path, f"{place}/{path}")
            self.store.delete(f"{place}/{BEGUN}")
        return label

    def has(self, version: str) -> bool:
        """Whether a version of that name is there, published by us or not."""
        place = self._place(version)
        return any(self.store.stat(f"{place}/{file}") for file in (LISTING, CONFIG))

    def aliases(self) -> Mapping[str, str]:
        """What the alias object says."""
        with saying_what_failed():
            return read_alias_object(self.store, self.model)[0]

    def point(self, alias: str, version: str, previous: str | None) -> None:
        """Swaps the alias object, once more where another alias of the model was moved meanwhile."""
        with saying_what_failed():
            for _ in range(_SWAPS):
                aliases, etag = read_alias_object(self.store, self.model)
                if aliases.get(alias) != previous:
                    raise AliasMoved(
                        f"{alias} of {self.model} in {self.store.url} points to {aliases.get(alias)} by now, "
                        f"not to {previous}; look at its history, then move it again"
                    )
                wanted = alias_text({**aliases, alias: version})
                if self.store.swap(f"{self.model}/{FILE}", wanted, etag):
                    return
        raise AliasMoved(f"the aliases of {self.model} in {self.store.url} are moved by others all the time")

    def _place(self, version: str) -> str:
        if why := problem_of_part(version):
            raise RegistryError(f"{shown(version)!r} cannot be a version: {why}")
        return f"{self.model}/{version}"


class S3Outlet:
    """An Outlet in a bucket."""

    locks = False
    adds = frozenset({LISTING})

    def __init__(self, name: str, spec: S3RegistrySpec):
        self.name = name
        self._spec = spec
        self._store = store_of(spec)

    @property
    def url(self) -> str:
        """s3://bucket/prefix, and at which server where it is named: buckets of two servers may be called alike."""
        return f"{self._store.url} at {self._spec.endpoint}" if self._spec.endpoint else self._store.url

    @contextmanager
    def shelf(self, model: str, *, make: bool) -> Iterator[S3Shelf]:
        """The model's folder; there is nothing to make."""
        _check_model(model)
        if not make and next(iter(self._store.list(f"{model}/")), None) is None:
            raise RegistryError(f"{self.url} has no model {model}")
        yield S3Shelf(self._store, model)

    def aliases(self, model: str) -> Mapping[str, str]:
        """What the model's alias object says."""
        _check_model(model)
        return S3Shelf(self._store, model).aliases()

    @contextmanager
    def opened(self, model: str, version: str) -> Iterator[Path]:
        """The version's files and their list, downloaded."""
        _check_model(f"{model}/{version}")
        source = S3Source(self._spec)
        with scratch_directory() as aside, saying_what_failed():
            place = f"{model}/{version}/"
            files = {one.key.removeprefix(place): RemoteFile(one.bytes) for one in self._store.list(place)}
            offer = source.offer(model, version)
            for path, file in files.items():
                if path == BEGUN:
                    continue
                if why := problem_of_path(path):
                    raise RegistryError(f"{shown(path)!r} cannot be a file of a version: {why}")
                (aside / path).parent.mkdir(parents=True, exist_ok=True)
                source.read(offer, path, file, aside / path)
            yield aside

    def probe(self) -> str:
        """Puts an object where no model can be, and deletes it."""
        key = ".prunefleet/probe"
        try:
            self._store.put(key, b"1")
            self._store.delete(key)
        except NotPermitted as error:
            raise NotPermitted(f"{self.url} cannot be written: {error}") from error
        except StoreError as error:
            raise RegistryError(str(error)) from error
        return f"{self.url} can be written"


def _check_model(model: str) -> None:
    if why := problem_of_path(model):
        raise RegistryError(f"{shown(model)!r} cannot be the name of a model: {why}")

"""Effects. Model versions in a bucket, laid out like a directory: `<prefix>/<name>/<version>/<file>`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from orchestrator.errors import NoSuchVersion, NotFound, RegistryError
from orchestrator.identity import digest
from orchestrator.names import natural
from orchestrator.ports import Stat
from orchestrator.registries.aliasfile import FILE, MAX_FILE_BYTES, parse_aliases
from orchestrator.registries.remote import Offer, RemoteFile
from orchestrator.registries.tree import WEIGHTS
from orchestrator.spec import StoreSpec
from orchestrator.specs.registries import S3RegistrySpec
from orchestrator.stores.keys import problem_of
from orchestrator.stores.s3 import S3Store
from tasks.files.modules import MODULE_FILES, MODULES, is_module

BEGUN = "prunefleet-begun.json"
"""Lies in a version that is being published; without `files.json` beside it, nobody takes it for a version."""
LISTING = "files.json"
ONLY_VERSION = "main"


def store_of(spec: S3RegistrySpec) -> S3Store:
    """The bucket and prefix in which the registry lies; the same object for the same place, for clients are dear to make."""
    return _store(spec.url, spec.endpoint, spec.region, spec.path_style)


@lru_cache(maxsize=32)
def _store(url: str, endpoint: str | None, region: str | None, path_style: bool | None) -> S3Store:
    return S3Store(StoreSpec(url=url, endpoint=endpoint, region=region, path_style=path_style))


class S3Source:
    """A Source in a bucket; one listing shows every version with what vouches for its bytes."""

    def __init__(self, spec: S3RegistrySpec):
        self._store = store_of(spec)
        self._with_aliases = spec.select.alias is not None

    def offers(self) -> Iterator[Offer]:
        """Every version, in key order of the names' first parts and natural order below; holds one first part at a time."""
        for first, objects in groupby(self._store.listed(""), key=lambda found: found.key.partition("/")[0]):
            found = with_modules(_folders(objects))
            folders = {parts: files for parts, files in found.items() if _is_version(parts, files, found)}
            aliases = {
                "/".join(parts): self._read_aliases("/".join(parts))
                for parts, files in found.items()
                if self._with_aliases and FILE in files
            }
            for parts in sorted(folders, key=lambda parts: [natural(part) for part in parts]):
                if len(parts) == 2 and parts[1] == ONLY_VERSION and (first,) in folders:
                    why = f"what lies above it is already the version {ONLY_VERSION}; move one of them"
                    yield self._offer(parts, folders[parts], why)
                elif parts:
                    yield _aliased(self._offer(parts, folders[parts]), aliases)

    def offer(self, name: str, version: str) -> Offer:
        """One version, by listing what begins with its name. Errors: NoSuchVersion."""
        parts = (*name.split("/"), version)
        found = with_modules(_folders(self._store.list(f"{name}/{version}/")))
        if parts not in found and version == ONLY_VERSION and "/" not in name:
            parts = (name,)
            found = with_modules(_folders(self._store.list(f"{name}/")))
        files = found.get(parts)
        if not files or not _is_version(parts, files, {parts: files}):
            raise NoSuchVersion(f"{name}@{version} is not in {self._store.url}")
        return self._offer(parts, files)

    def files(self, offer: Offer) -> Mapping[str, RemoteFile]:
        """What the listing has; asked only where it had nothing."""
        return offer.files or self.offer(offer.name, offer.version).files or {}

    def read(self, offer: Offer, path: str, file: RemoteFile, into: Path) -> None:
        """Downloads one object, never more than was listed. Errors: NoSuchVersion."""
        try:
            self._store.download(f"{offer.place}/{path}", into, file.bytes)
        except NotFound as error:
            raise NoSuchVersion(f"{offer.place}/{path} is not in {self._store.url}") from error

    def _offer(self, parts: tuple[str, ...], files: Mapping[str, Stat], problem: str = "") -> Offer:
        place = "/".join(parts)
        name, version = (parts[0], ONLY_VERSION) if len(parts) == 1 else ("/".join(parts[:-1]), parts[-1])
        vouched = [[path, one.bytes, one.etag or one.modified] for path, one in sorted(files.items())]
        return Offer(
            name=name,
            version=version,
            vouched=digest(vouched) if not problem and not problem_of(place) else "",
            uri=f"{self._store.url}/{place}",
            files={path: RemoteFile(one.bytes) for path, one in files.items()},
            problem=problem,
            place=place,
        )

    def _read_aliases(self, model: str) -> Mapping[str, str] | str:
        """Alias -> version, or why that cannot be told."""
        if problem_of(f"{model}/{FILE}"):
            return {}
        try:
            return read_alias_object(self._store, model)[0]
        except RegistryError as error:
            return f"whether it is selected cannot be told: {error}"


def _aliased(offer: Offer, aliases: Mapping[str, Mapping[str, str] | str]) -> Offer:
    """The offer with the aliases of its model that point to it."""
    told = aliases.get(offer.name, {})
    if isinstance(told, str):
        return replace(offer, problem=told, is_unseen=True)
    return replace(offer, aliases=tuple(alias for alias, to in told.items() if to == offer.version))


def read_alias_object(store: S3Store, model: str) -> tuple[dict[str, str], str | None]:
    """Alias -> version of a model, and the etag under which that was there, or an older one. Errors: RegistryError."""
    key = f"{model}/{FILE}"
    there = store.stat(key)
    if there is None:
        return {}, None
    data = store.get(key) if there.bytes <= MAX_FILE_BYTES else b"too long"
    return parse_aliases(data), there.etag


def _folders(objects: Iterator[Stat]) -> dict[tuple[str, ...], dict[str, Stat]]:
    """Objects by their folder, then by file name."""
    folders: dict[tuple[str, ...], dict[str, Stat]] = {}
    for one in objects:
        *parts, file = one.key.split("/")
        if file:
            folders.setdefault(tuple(parts), {})[file] = one
    return folders


def with_modules(folders: dict[tuple[str, ...], dict[str, Stat]]) -> dict[tuple[str, ...], dict[str, Stat]]:
    """The same with the modules of sentence encoders as files of the folder that they are in, by relative path."""
    for parts, files in list(folders.items()):
        above = folders.get(parts[:-1], {}) if parts else {}
        if MODULES in above and is_module(parts[-1]):
            above |= {f"{parts[-1]}/{name}": one for name, one in files.items() if name in MODULE_FILES}
            del folders[parts]
    return folders


def _is_version(
    parts: tuple[str, ...], files: Mapping[str, Stat], found: Mapping[tuple[str, ...], Mapping[str, Stat]]
) -> bool:
    """Whether a folder holds a model that is not being published, and lies in no other version."""
    if not parts or not _has_model(files) or (BEGUN in files and LISTING not in files):
        return False
    above = (parts[:depth] for depth in range(2, len(parts)))
    return not any(_has_model(found.get(outer, {})) for outer in above)


def _has_model(files: Mapping[str, Stat]) -> bool:
    return any(name == "config.json" or WEIGHTS.fullmatch(name) for name in files)

"""Effects. Model versions in a directory: `<root>/<name>/<version>/`, or `<root>/<name>/` for the version `main`.

A name may have several parts; the last part of the path is the version.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from orchestrator.domain import ModelVersion
from orchestrator.errors import BrokenInvariant, ModelChanged, RegistryError
from orchestrator.identity import digest_files
from orchestrator.names import problem_of_path, shown
from orchestrator.registries.memory import DigestMemory, Summary
from orchestrator.registries.model_files import (
    CONFIG,
    architecture_of,
    copy_below,
    explained,
    hash_file,
    missing_config,
    used,
)
from orchestrator.registries.tree import WEIGHTS, Found, contents_of, open_below, open_root, path_of, walk
from tasks.contract import BadInput
from tasks.files.layouts import Layout, read_layout

ONLY_VERSION = "main"
HASHERS = 4  # one disk is seldom faster than four cores of SHA-256
AHEAD = 64  # versions whose files are hashed while earlier ones are waited for

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """A sound version whose files are being hashed."""

    found: Found
    architecture: str
    layout: Layout
    known: Mapping[str, str]
    hashing: Mapping[str, Future[str]]


class DirectoryRegistry:
    """A Registry in a directory of this machine or of a file system that it mounts."""

    def __init__(self, name: str, root: Path, memory: DigestMemory | None = None):
        self.name = name
        self._root = root
        self._memory = memory or DigestMemory(at=0.0)

    def scan(self) -> Iterator[ModelVersion]:
        """Every version in natural order, broken ones with `problem` set; reads only what the memory does not know."""
        with open_root(self._root) as root:
            pool = ThreadPoolExecutor(HASHERS)
            try:
                found = _unambiguous(walk(root))
                while ahead := list(islice(found, AHEAD)):
                    for begun in [self._begin(root, item, pool) for item in ahead]:
                        yield self._finish(begun) if isinstance(begun, _Begun) else begun
            finally:
                pool.shutdown(cancel_futures=True)

    def fetch(self, model: ModelVersion, into: Path) -> None:
        """Copies the version's files into an empty directory and checks them against its digest.

        Copies, never hard links: the source may be rewritten in place. Errors: ModelChanged, RegistryError.
        """
        if any(into.iterdir()):
            raise BrokenInvariant(f"{into} is not empty")
        with open_root(self._root) as root, self._opened(root, model) as directory:
            try:
                contents = contents_of(directory)
                if contents.problem:
                    raise _changed(model, contents.problem)
                names = used(contents.files, read_layout(path_of(directory)))
                copied = {name: copy_below(directory, name, into) for name in names}
            except BadInput as error:
                reason = error.__context__
                if isinstance(reason, OSError) and reason.errno not in _GONE:
                    raise RegistryError(f"{model.id} cannot be read: {error}") from error
                raise _changed(model, explained(error, model.version)) from error
        if (found := digest_files(copied)) != model.digest:
            raise _changed(model, f"its digest is now {found}")

    @contextmanager
    def _opened(self, root: int, model: ModelVersion) -> Iterator[int]:
        """The version's directory."""
        if why := problem_of_path(f"{model.name}/{model.version}"):
            raise RegistryError(f"{shown(model.id)} is no name of a model version: {why}")
        with ExitStack() as stack:
            try:
                directory = stack.enter_context(open_below(root, _parts(root, model)))
            except OSError as error:
                if error.errno in _GONE:
                    raise _changed(model, "it is no longer there") from error
                raise RegistryError(f"{model.id} cannot be opened: {error.strerror}") from error
            yield directory

    def _begin(self, root: int, found: Found, pool: ThreadPoolExecutor) -> ModelVersion | _Begun:
        """Reads what is small, and starts hashing what is not."""
        if found.problem:
            return self._broken(found, found.problem)
        path = "/".join(found.parts)
        if (summary := self._memory.summary(path, found.files)) is not None:
            return self._sound(found, summary)
        architecture = ""
        try:
            with open_below(root, found.parts) as directory:
                if CONFIG in found.files:
                    architecture = architecture_of(path_of(directory))
                layout = read_layout(path_of(directory))
            if not architecture:
                raise missing_config()
        except (BadInput, OSError) as error:
            return self._broken(found, explained(error, found.parts[-1]), architecture)
        known, hashing = {}, {}
        for name in used(found.files, layout):
            identity = found.files.get(name)
            if identity and (sha256 := self._memory.sha256(path, name, identity)):
                known[name] = sha256
            else:
                hashing[name] = pool.submit(hash_file, root, found.parts, name, identity)
        return _Begun(found=found, architecture=architecture, layout=layout, known=known, hashing=hashing)

    def _finish(self, begun: _Begun) -> ModelVersion:
        """Waits for the digests."""
        found, files = begun.found, begun.layout.files
        try:
            digests = {**begun.known, **{name: future.result() for name, future in begun.hashing.items()}}
        except (BadInput, OSError) as error:
            return self._broken(found, explained(error, found.parts[-1]), begun.architecture)
        summary = Summary(
            digest=digest_files(digests),
            architecture=begun.architecture,
            bytes=sum(file.bytes for file in files),
            parameters=sum(entry.elements for file in files for entry in file.entries.values()),
            format=begun.layout.format,
        )
        self._memory.remember("/".join(found.parts), found.files, digests, summary)
        return self._sound(found, summary)

    def _sound(self, found: Found, summary: Summary) -> ModelVersion:
        name, version = _named(found.parts)
        return ModelVersion(
            registry=self.name,
            name=name,
            version=version,
            digest=summary.digest,
            uri=str(self._root.joinpath(*found.parts)),
            format=summary.format,
            bytes=summary.bytes,
            parameters=summary.parameters,
            architecture=summary.architecture,
            tags=_tags(found),
        )

    def _broken(self, found: Found, problem: str, architecture: str = "") -> ModelVersion:
        name, version = _named(found.parts)
        weights = {name: identity.bytes for name, identity in found.files.items() if WEIGHTS.fullmatch(name)}
        return ModelVersion(
            registry=self.name,
            name=shown(name),
            version=shown(version),
            digest="",
            uri=shown(str(self._root.joinpath(*found.parts))),
            format="safetensors" if weights else "",
            bytes=sum(weights.values()),
            parameters=0,
            architecture=architecture,
            tags=_tags(found),
            problem=problem,
        )


def _named(parts: Sequence[str]) -> tuple[str, str]:
    return (parts[0], ONLY_VERSION) if len(parts) == 1 else ("/".join(parts[:-1]), parts[-1])


def _parts(root: int, model: ModelVersion) -> list[str]:
    """Where a version lies below the root. Errors: OSError."""
    name = model.name.split("/")
    if model.version == ONLY_VERSION and len(name) == 1:
        with open_below(root, name) as directory:
            if contents_of(directory).has_model:
                return name
    return [*name, model.version]


def _unambiguous(found: Iterator[Found]) -> Iterator[Found]:
    """Refuses `<name>/main/` where `<name>/` is a model too: both would be the version `main`."""
    models: set[str] = set()
    for item in found:
        if len(item.parts) == 1:
            models.add(item.parts[0])
        if len(item.parts) == 2 and item.parts[1] == ONLY_VERSION and item.parts[0] in models:
            why = f"the directory above it is already the version {ONLY_VERSION}; move one of them"
            yield replace(item, problem=why)
        else:
            yield item


def _tags(found: Found) -> dict[str, str]:
    return {"prunefleet": "artifact"} if "prunefleet.json" in found.files else {}


def _changed(model: ModelVersion, what: str) -> ModelChanged:
    return ModelChanged(
        f"{shown(model.id)} is no longer what was planned: its digest was {model.digest}, and {what}. "
        "Plan again to use what is there now."
    )

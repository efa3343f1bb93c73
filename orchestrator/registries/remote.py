"""Effects. A Registry whose files are elsewhere: what a source offers is looked at here, by the same rules as a directory.

What the source vouches for (ETags, a commit, the record of a version) is remembered, so that a quiet scan reads no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from orchestrator.domain import ModelVersion
from orchestrator.durable import sha256_of
from orchestrator.errors import (
    BrokenInvariant,
    Failing,
    ModelChanged,
    NoSuchVersion,
    NotPermitted,
    RegistryError,
    StoreError,
)
from orchestrator.identity import digest_files
from orchestrator.names import problem_of_part, problem_of_path, shown
from orchestrator.registries.memory import DigestMemory, Summary
from orchestrator.registries.model_files import CONFIG, architecture_of, missing_config, used
from orchestrator.registries.tree import MAX_FILES, WEIGHTS, belongs
from orchestrator.scratch import scratch_directory
from orchestrator.specs.registries import Select
from tasks.contract import BadInput
from tasks.files.archives import PROGRAM
from tasks.files.headers import MAX_HEADER_BYTES, open_regular
from tasks.files.layouts import INDEX, SINGLE, check_index, read_layout

THREADS = 4
AHEAD = 64  # versions that are looked at while earlier ones are waited for
MAX_DESCRIPTION_BYTES = 1 << 30
"""Of a file that is no weights: tokenizers of 100 MB exist."""


class RemoteFile(NamedTuple):
    """One file of a version, as its source lists it."""

    bytes: int
    sha256: str = ""
    """Where the source says so; it is checked whenever the file is fetched."""
    place: str = ""
    """Where the source finds it, if its name does not say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A version that a source lists; nothing of it is believed yet."""

    name: str
    version: str
    vouched: str
    """As long as it is the same, so are the bytes."""
    uri: str
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, RemoteFile] | None = None
    """Where the listing has them already."""
    problem: str = ""
    place: str = ""
    """Where the source finds its files."""
    is_unseen: bool = False
    """Nothing but its name could be read, so that no more than its name decides whether it is selected."""


class Source(Protocol):
    """Versions and their files, somewhere else. Errors: RegistryError, Unreachable, NotPermitted, those of the store."""

    def offers(self) -> Iterator[Offer]:
        """Every version, each once, in a stable order, in memory for one model at a time."""

    def offer(self, name: str, version: str) -> Offer:
        """One version, asked for anew. Errors: NoSuchVersion."""

    def files(self, offer: Offer) -> Mapping[str, RemoteFile]:
        """A version's files by relative path. Errors: NoSuchVersion."""

    def read(self, offer: Offer, path: str, file: RemoteFile, into: Path) -> None:
        """Writes a whole file into a new one, never more than was listed. Errors: NoSuchVersion."""


@runtime_checkable
class HashedSource(Source, Protocol):
    """A Source that lists its files' SHA-256: their beginning is all that a look at them has to read."""

    def head(self, offer: Offer, path: str, count: int) -> bytes:
        """The first bytes of a file. Errors: NoSuchVersion."""


class RemoteRegistry:
    """A Registry of what a source offers."""

    def __init__(self, name: str, source: Source, select: Select, memory: DigestMemory | None = None):
        self.name = name
        self._source = source
        self._select = select
        self._memory = memory or DigestMemory(at=0.0)

    def scan(self) -> Iterator[ModelVersion]:
        """Every version that is selected, in the source's order, broken ones with `problem` set."""
        with saying_what_failed():
            pool = ThreadPoolExecutor(THREADS)
            try:
                offers = (offer for offer in self._source.offers() if selects(self._select, offer))
                while ahead := list(islice(offers, AHEAD)):
                    for begun in [self._begin(offer, pool) for offer in ahead]:
                        found = begun.result() if isinstance(begun, Future) else begun
                        if found is not None:
                            yield found
            finally:
                pool.shutdown(cancel_futures=True)

    def fetch(self, model: ModelVersion, into: Path) -> None:
        """Reads the version's files into an empty directory and checks them against its digest."""
        if any(into.iterdir()):
            raise BrokenInvariant(f"{into} is not empty")
        if why := problem_of_path(model.name) or problem_of_part(model.version):
            raise RegistryError(f"{shown(model.id)} is no name of a model version: {why}")
        with saying_what_failed():
            try:
                offer = self._source.offer(model.name, model.version)
                if offer.problem:
                    raise _changed(model, offer.problem)
                found = _read_model(self._source, offer, into, is_whole=True)
            except NoSuchVersion as error:
                raise _changed(model, "it is no longer there") from error
            except BadInput as error:
                raise _changed(model, str(error)) from error
        if found.digest != model.digest:
            raise _changed(model, f"its digest is now {found.digest}")

    def _begin(
        self, offer: Offer, pool: ThreadPoolExecutor
    ) -> ModelVersion | Future[ModelVersion | None] | None:
        if problem := _name_problem(offer) or offer.problem:
            return self._broken(offer, problem)
        known = self._memory.vouched(f"{offer.name}/{offer.version}", offer.vouched)
        if known is None:
            return pool.submit(self._look, offer)
        if isinstance(known, str):
            return self._broken(offer, known)
        return self._sound(offer, *known)

    def _look(self, offer: Offer) -> ModelVersion | None:
        """Reads a version that is not known; None if it was deleted since it was listed."""
        path = f"{offer.name}/{offer.version}"
        try:
            with scratch_directory() as scratch:
                summary = _read_model(self._source, offer, scratch, is_whole=False)
                is_ours = (scratch / "prunefleet.json").exists()
        except (NoSuchVersion, Failing, StoreError) as error:
            return self._if_still_there(offer, str(error))
        except BadInput as error:
            self._memory.remember_vouched(path, offer.vouched, str(error))
            return self._broken(offer, str(error))
        except (RegistryError, NotPermitted) as error:
            return self._broken(offer, str(error))
        self._memory.remember_vouched(path, offer.vouched, (summary, is_ours))
        return self._sound(offer, summary, is_ours)

    def _if_still_there(self, offer: Offer, problem: str) -> ModelVersion | None:
        """A version of which something cannot be had, told by who still answers for the version: None if it is gone itself.

        Errors: those of the source, if it answers for nothing.
        """
        try:
            self._source.offer(offer.name, offer.version)
        except NoSuchVersion:
            return None
        return self._broken(offer, f"{problem}; if that stays so, upload it again, or remove the version")

    def _sound(self, offer: Offer, summary: Summary, is_ours: bool) -> ModelVersion:
        return ModelVersion(
            registry=self.name,
            name=offer.name,
            version=offer.version,
            digest=summary.digest,
            uri=offer.uri,
            format=summary.format,
            bytes=summary.bytes,
            parameters=summary.parameters,
            architecture=summary.architecture,
            tags=_tags(offer, is_ours),
        )

    def _broken(self, offer: Offer, problem: str) -> ModelVersion:
        files = offer.files or {}
        weights = [file.bytes for path, file in files.items() if WEIGHTS.fullmatch(path)]
        return ModelVersion(
            registry=self.name,
            name=shown(offer.name),
            version=shown(offer.version),
            digest="",
            uri=shown(offer.uri),
            format="safetensors" if weights else "",
            bytes=sum(weights),
            parameters=0,
            architecture="",
            tags=_tags(offer, is_ours=False),
            problem="".join(c if c.isprintable() else " " for c in problem),
        )


def selects(select: Select, offer: Offer) -> bool:
    """Whether the fleet wants this version, or may want it, for all that can be known of it."""
    if not fnmatchcase(offer.name, select.name):
        return False
    if offer.is_unseen:
        return True
    return (
        fnmatchcase(offer.version, select.version)
        and (select.alias is None or any(fnmatchcase(alias, select.alias) for alias in offer.aliases))
        and all(fnmatchcase(offer.tags.get(tag, ""), glob) for tag, glob in select.tags.items())
    )


@contextmanager
def saying_what_failed() -> Iterator[None]:
    """Turns errors of a store beneath a registry into the registry's."""
    try:
        yield
    except StoreError as error:
        raise RegistryError(str(error)) from error


def _name_problem(offer: Offer) -> str:
    why = problem_of_path(offer.name) or problem_of_part(offer.version)
    return f"its name cannot be used: {why}; rename it" if why else ""


def _read_model(source: Source, offer: Offer, into: Path, *, is_whole: bool) -> Summary:
    """Reads what decides how a version computes; not `is_whole`: of weights with a known digest only the header.

    Errors: BadInput, NoSuchVersion.
    """
    listed = source.files(offer) if offer.files is None else offer.files
    files = _model_files(listed)
    for path in sorted(files):
        if not WEIGHTS.fullmatch(path):
            _read(source, offer, path, files[path], into)
    named = _named_weights(files, into)
    for path in sorted(named):
        if not is_whole and files[path].sha256 and path != PROGRAM and isinstance(source, HashedSource):
            _sketch(source, offer, path, files[path], into)
        else:
            _read(source, offer, path, files[path], into)
    if not is_whole:
        for path in listed:
            if WEIGHTS.fullmatch(path) and path not in named and not problem_of_part(path):
                (into / path).touch(exist_ok=True)  # what is not read is still counted as being there
        if INDEX in files and SINGLE in files:
            (into / SINGLE).touch(exist_ok=True)
    if CONFIG not in files:
        read_layout(into)
        raise missing_config()
    architecture = architecture_of(into)
    layout = read_layout(into)
    digests = {
        path: files[path].sha256
        if path in named and files[path].sha256 and not is_whole
        else sha256_of(into / path)
        for path in used(files, layout)
    }
    return Summary(
        digest=digest_files(digests),
        architecture=architecture,
        bytes=sum(file.bytes for file in layout.files),
        parameters=sum(entry.elements for file in layout.files for entry in file.entries.values()),
        format=layout.format,
    )


def _model_files(listed: Mapping[str, RemoteFile]) -> dict[str, RemoteFile]:
    if len(listed) > MAX_FILES:
        raise BadInput(
            "the model cannot be used",
            why=f"it has more than {MAX_FILES} files; no model does",
            do="Remove what does not belong there.",
        )
    files = {path: file for path, file in listed.items() if belongs(path, listed)}
    for path, file in files.items():
        if why := problem_of_path(path):
            raise BadInput(
                f"the file name {shown(path)!r} cannot be used", why=why, do="Rename it.", file=shown(path)
            )
        if not WEIGHTS.fullmatch(path) and file.bytes > MAX_DESCRIPTION_BYTES:
            why = f"it has {file.bytes} bytes, more than {MAX_DESCRIPTION_BYTES}"
            raise BadInput("the file is too large", why=why, do="No model needs that.", file=path)
    return files


def _named_weights(files: Mapping[str, RemoteFile], directory: Path) -> set[str]:
    """The weight files that the model names: its only one, or those of its index."""
    if SINGLE in files:
        return set() if INDEX in files else {SINGLE}
    if INDEX not in files:
        return {PROGRAM} & files.keys()
    with open_regular(directory / INDEX) as stream:
        listed, _ = check_index(stream.read(MAX_HEADER_BYTES + 1))
    return set(listed.values()) & files.keys()


def _read(source: Source, offer: Offer, path: str, file: RemoteFile, into: Path) -> None:
    if "/" in path:
        (into / path).parent.mkdir(exist_ok=True)
    source.read(offer, path, file, into / path)
    if (size := (into / path).stat().st_size) != file.bytes:
        why = f"{size} bytes came, {file.bytes} were listed"
        raise BadInput("the file cannot be read whole", why=why, do="Try again.", file=path)
    if file.sha256 and (found := sha256_of(into / path)) != file.sha256:
        why = f"its SHA-256 is {found}, and its registry lists {file.sha256}"
        raise BadInput("the file is damaged", why=why, do="Upload it again.", file=path)


def _sketch(source: HashedSource, offer: Offer, path: str, file: RemoteFile, into: Path) -> None:
    """A file of the right size with nothing in it but the header."""
    beginning = source.head(offer, path, 512)
    length = int.from_bytes(beginning[:8], "little") + 8
    if 512 < length <= MAX_HEADER_BYTES + 8:
        beginning = source.head(offer, path, length)
    with (into / path).open("xb") as sketch:
        sketch.write(beginning[: file.bytes])
        sketch.truncate(file.bytes)


def _tags(offer: Offer, is_ours: bool) -> dict[str, str]:
    tags = {shown(key): shown(value) for key, value in sorted(offer.tags.items()) if key != "prunefleet"}
    return {**tags, "prunefleet": "artifact"} if is_ours else tags


def _changed(model: ModelVersion, what: str) -> ModelChanged:
    return ModelChanged(
        f"{shown(model.id)} is no longer what was planned: its digest was {model.digest}, and "
        f"{''.join(c if c.isprintable() else ' ' for c in what)}. Plan again to use what is there now."
    )

"""Effects. Repositories of a Hugging Face Hub: each wanted branch or tag is read once, and its commit is the version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

from orchestrator.errors import Failing, NoSuchVersion, NotPermitted, PrunefleetError, RegistryError
from orchestrator.names import is_sha256, natural, problem_of_path, shown
from orchestrator.registries.hub_server import HubServer
from orchestrator.registries.remote import Offer, RemoteFile
from orchestrator.specs.registries import HuggingFaceRegistrySpec

MAX_FILE_BYTES = 1 << 50


HIDDEN = "has no such repository, or does not show it to this token"


class HubSource:
    """A Source at a Hub. Nothing that the Hub answers is believed: what is not as it must be is the version's problem."""

    def __init__(self, spec: HuggingFaceRegistrySpec):
        self._spec = spec
        self.server = HubServer(spec.endpoint)

    def offers(self) -> Iterator[Offer]:
        """By repository, then by the first of the names that a commit has."""
        url, shows_any = self.server.url, False
        failed: list[PrunefleetError] = []
        for repository, is_named in self._repositories():
            try:
                for commit in self._commits(repository):
                    shows_any = True
                    yield commit
            except NoSuchVersion:
                if is_named:
                    yield _broken(repository, f"{url}/{repository}", f"{url} {HIDDEN}")
            except NotPermitted as error:  # which the Hub also answers of what is not there
                failed.append(error)
                yield _broken(repository, f"{url}/{repository}", f"{url} {HIDDEN}: {error}")
            except Failing as error:
                failed.append(error)
                yield _broken(repository, f"{url}/{repository}", str(error))
            except RegistryError as error:
                yield _broken(repository, f"{url}/{repository}", str(error))
        if failed and not shows_any:
            raise failed[0]

    def offer(self, name: str, version: str) -> Offer:
        """A commit, named in full. Errors: NoSuchVersion."""
        if not is_commit(version):
            raise NoSuchVersion(f"{shown(version)} is no commit: 40 hex digits are")
        self._revision(name, version)
        return self._offer(name, version, ())

    def files(self, offer: Offer) -> Mapping[str, RemoteFile]:
        """What the Hub lists of the commit, with the SHA-256 of large files. Errors: NoSuchVersion, RegistryError."""
        what = f"{offer.name} at {offer.version}"
        found = self._revision(offer.name, offer.version, "?blobs=true")
        return dict(_file(one, what) for one in _rows(found.get("siblings"), what))

    def read(self, offer: Offer, path: str, file: RemoteFile, into: Path) -> None:
        """Downloads one file of the commit, never more than the Hub listed."""
        count = 0
        with self.server.file(offer.name, offer.version, path, {}) as blocks, into.open("xb") as copy:
            for block in blocks:
                count += len(block)
                if count > file.bytes:
                    raise RegistryError(f"{shown(path)} of {offer.name} is longer than it was listed")
                copy.write(block)

    def head(self, offer: Offer, path: str, count: int) -> bytes:
        """The first bytes of a file, by a range; what a server sends beyond it is not read."""
        found = bytearray()
        wanted = {"Range": f"bytes=0-{count - 1}"}
        with self.server.file(offer.name, offer.version, path, wanted) as blocks:
            for block in blocks:
                found += block
                if len(found) >= count:
                    break
        return bytes(found[:count])

    def refs(self, repository: str) -> tuple[dict[str, str], dict[str, str]]:
        """Branch -> commit, and tag -> commit. Errors: NoSuchVersion, RegistryError."""
        found = self.server.get(f"models/{repository}/refs", repository)
        branches, tags = (_rows(found.get(kind), repository) for kind in ("branches", "tags"))
        return dict(_ref(one, repository) for one in branches), dict(_ref(one, repository) for one in tags)

    def _revision(self, name: str, version: str, query: str = "") -> dict[str, Any]:
        """What the Hub says of a commit. Errors: NoSuchVersion, RegistryError."""
        found = self.server.get(f"models/{name}/revision/{version}{query}", f"{name} at {version}")
        if found.get("sha") != version:
            raise NoSuchVersion(f"{name}@{version}: the Hub answers with {shown(str(found.get('sha')))}")
        return found

    def _repositories(self) -> Iterator[tuple[str, bool]]:
        """Each once, in order; whether the fleet names it."""
        seen = set()
        for repository in self._spec.repositories:
            if repository not in seen:
                seen.add(repository)
                yield repository, True
        if self._spec.owner:
            for page in self.server.pages(
                f"models?author={quote(self._spec.owner, safe='')}", self._spec.owner
            ):
                for one in _rows(page, self._spec.owner):
                    repository = _text(one, "id", self._spec.owner)
                    if repository not in seen:
                        seen.add(repository)
                        yield repository, False

    def _commits(self, repository: str) -> Iterator[Offer]:
        if why := problem_of_path(repository):
            yield _broken(repository, self.server.url, f"its name cannot be used: {why}")
            return
        branches, tags = self.refs(repository)
        names: dict[str, list[str]] = {}
        for name, commit in sorted({**branches, **tags}.items(), key=lambda item: natural(item[0])):
            if any(fnmatchcase(name, wanted) for wanted in self._spec.revisions):
                names.setdefault(commit, []).append(name)
        for commit, refs in names.items():
            yield self._offer(repository, commit, tuple(refs))

    def _offer(self, repository: str, commit: str, refs: tuple[str, ...]) -> Offer:
        return Offer(
            name=repository,
            version=commit,
            vouched=commit,
            uri=f"{self.server.url}/{repository}/tree/{commit}",
            aliases=refs,
            tags={"refs": ", ".join(refs)} if refs else {},
            problem="" if is_commit(commit) else "the Hub names a commit that is none",
        )


def is_commit(text: str) -> bool:
    """Whether this is a commit's full name."""
    return is_sha256(text + "0" * 24) and len(text) == 40


def _broken(repository: str, uri: str, problem: str) -> Offer:
    return Offer(name=repository, version="main", vouched="", uri=uri, problem=problem, is_unseen=True)


def _rows(value: object, what: str) -> list[dict[str, Any]]:
    """A list of objects. Errors: RegistryError."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise RegistryError(f"the Hub's list for {shown(what)} is no list of objects")
    return value


def _text(row: Mapping[str, Any], key: str, what: str) -> str:
    if not isinstance(value := row.get(key), str):
        raise RegistryError(f"the Hub names no `{key}` in what it lists for {shown(what)}")
    return value


def _ref(row: Mapping[str, Any], repository: str) -> tuple[str, str]:
    return _text(row, "name", repository), _text(row, "targetCommit", repository)


def _file(row: Mapping[str, Any], what: str) -> tuple[str, RemoteFile]:
    path, size, large = _text(row, "rfilename", what), row.get("size"), row.get("lfs")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= MAX_FILE_BYTES:
        raise RegistryError(f"the Hub lists no size that can be for {shown(path)} of {shown(what)}")
    sha256 = large.get("sha256") if isinstance(large, dict) else None
    return path, RemoteFile(size, sha256 if isinstance(sha256, str) and is_sha256(sha256) else "")

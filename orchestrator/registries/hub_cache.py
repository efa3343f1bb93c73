"""Effects. What huggingface_hub keeps on this machine: `models--owner--name/snapshots/<commit>`; no network at all."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import NoSuchVersion, RegistryError
from orchestrator.identity import digest
from orchestrator.names import is_sha256, natural, problem_of_path, shown
from orchestrator.registries.hub import is_commit
from orchestrator.registries.model_files import copy_file
from orchestrator.registries.remote import Offer, RemoteFile
from orchestrator.registries.tree import open_below, open_root, path_of
from tasks.contract import BadInput
from tasks.files.headers import open_regular
from tasks.files.modules import MODULE_FILES, MODULES, is_module

_FOLDER = "models--"
_BLOB = re.compile(r"(?:\.\./)+blobs/([0-9a-f]{40,64})")
_MAX_REF = 100


class HubCacheSource:
    """A Source in a cache directory. Its links are read, never followed: each must name a blob of the same repository."""

    def __init__(self, root: Path):
        self._root = root

    def offers(self) -> Iterator[Offer]:
        """Every snapshot, by repository; the names in `refs` are its aliases."""
        with open_root(self._root) as root:
            folders = sorted((name for name in os.listdir(root) if name.startswith(_FOLDER)), key=natural)
            for folder in folders:
                try:
                    yield from self._snapshots(root, folder)
                except OSError as error:
                    name = folder.removeprefix(_FOLDER).replace("--", "/")
                    why = f"its folder cannot be read: {error.strerror}"
                    yield Offer(
                        name=name,
                        version="main",
                        vouched="",
                        uri=str(self._root / folder),
                        problem=why,
                        is_unseen=True,
                    )

    def offer(self, name: str, version: str) -> Offer:
        """One snapshot. Errors: NoSuchVersion."""
        folder = _FOLDER + name.replace("/", "--")
        if problem_of_path(name) or not is_commit(version):
            raise NoSuchVersion(f"{shown(name)}@{shown(version)} is no snapshot: its version is a commit")
        try:
            with open_root(self._root) as root, open_below(root, [folder]) as repository:
                return self._offer(repository, folder, version, ())
        except OSError as error:
            raise NoSuchVersion(f"{name}@{version} is not in {self._root}") from error

    def files(self, offer: Offer) -> Mapping[str, RemoteFile]:
        """What the snapshot's directory lists."""
        return offer.files or {}

    def read(self, offer: Offer, path: str, file: RemoteFile, into: Path) -> None:
        """Copies a file, or the blob that its link names."""
        with self._blob(offer, path) as blob:
            copy_file(blob, into)

    def head(self, offer: Offer, path: str, count: int) -> bytes:
        """The first bytes of a blob. Errors: those of `read`."""
        with self._blob(offer, path) as blob, open_regular(blob) as file:
            found: bytes = file.read(count)
        return found

    @contextmanager
    def _blob(self, offer: Offer, path: str) -> Iterator[Path]:
        """A file, or what its link names. Errors: NoSuchVersion, RegistryError, BadInput."""
        folder, commit = offer.place.split("/")
        try:
            with open_root(self._root) as root, open_below(root, [folder]) as repository:
                parts, name = self._target(repository, commit, path)
                with open_below(repository, parts) as directory:
                    yield path_of(directory) / name
        except FileNotFoundError as error:
            raise NoSuchVersion(f"{shown(path)} of {offer.name}@{offer.version} is gone") from error
        except OSError as error:
            raise RegistryError(f"{shown(path)} of {offer.name} cannot be read: {error.strerror}") from error

    def _snapshots(self, root: int, folder: str) -> Iterator[Offer]:
        with open_below(root, [folder]) as repository:
            names: dict[str, list[str]] = {}
            for ref, commit in _refs(repository):
                names.setdefault(commit, []).append(ref)
            try:
                with open_below(repository, ["snapshots"]) as snapshots:
                    commits = sorted(os.listdir(snapshots))
            except FileNotFoundError:
                return
            for commit in commits:
                yield self._offer(repository, folder, commit, tuple(sorted(names.get(commit, ()))))

    def _offer(self, repository: int, folder: str, commit: str, refs: tuple[str, ...]) -> Offer:
        files: dict[str, RemoteFile] = {}
        known = []
        problem = "" if is_commit(commit) else "its snapshot is not named by a commit"
        try:
            with open_below(repository, ["snapshots", commit]) as snapshot:
                names = sorted(os.listdir(snapshot))
            if MODULES in names:
                names += [
                    f"{folder}/{name}" for folder in names if is_module(folder) for name in MODULE_FILES
                ]
            for name in names:
                if (one := self._described(repository, commit, name)) is not None:
                    files[name], status = one
                    known.append(
                        [name, files[name].bytes, files[name].sha256, status.st_mtime_ns, status.st_ino]
                    )
        except BadInput as error:
            problem = problem or str(error)
        return Offer(
            name=folder.removeprefix(_FOLDER).replace("--", "/"),
            version=commit,
            vouched=digest([commit, known]),
            uri=str(self._root / folder / "snapshots" / commit),
            aliases=refs,
            tags={"refs": ", ".join(refs)} if refs else {},
            files=files,
            problem=problem,
            place=f"{folder}/{commit}",
        )

    def _described(self, repository: int, commit: str, name: str) -> tuple[RemoteFile, os.stat_result] | None:
        """A file of a snapshot, or None for what is no file and for what was not downloaded whole."""
        try:
            parts, target = self._target(repository, commit, name)
            with open_below(repository, parts) as directory:
                status = os.stat(target, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return RemoteFile(status.st_size, target if is_sha256(target) else ""), status

    def _target(self, repository: int, commit: str, name: str) -> tuple[list[str], str]:
        """The folder and the name of the file itself. Errors: BadInput, for a link that names no blob; OSError."""
        *folders, leaf = name.split("/")
        with open_below(repository, ["snapshots", commit, *folders]) as snapshot:
            status = os.stat(leaf, dir_fd=snapshot, follow_symlinks=False)
            if not stat.S_ISLNK(status.st_mode):
                return ["snapshots", commit, *folders], leaf
            link = os.readlink(leaf, dir_fd=snapshot)
        if not (match := _BLOB.fullmatch(link)):
            raise BadInput(
                "a link leads out of the cache",
                why=f"it names {shown(link)!r}, not a blob of its repository",
                do="Download the model again.",
                file=shown(name),
            )
        return ["blobs"], match[1]


def _refs(repository: int) -> Iterator[tuple[str, str]]:
    """Branch or tag, and its commit, as the cache last saw them."""
    try:
        with open_below(repository, ["refs"]) as folder:
            for name in sorted(os.listdir(folder)):
                descriptor = os.open(
                    name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder
                )
                with open(descriptor, "rb") as file:
                    if stat.S_ISREG(os.fstat(descriptor).st_mode):
                        yield name, file.read(_MAX_REF).decode(errors="replace").strip()
    except FileNotFoundError:
        return

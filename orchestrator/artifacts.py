"""Effects. Compressed models in the store: `artifacts/<digest>/…`, by content, with `files.json` written last."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.durable import regular_files, sha256_of
from orchestrator.errors import BrokenInvariant, Damaged, NotFound
from orchestrator.identity import digest_files
from orchestrator.names import clash, is_sha256, problem_of_path, shown
from orchestrator.ports import ObjectStore
from tasks.contract import BadInput

LISTING = "files.json"
SEALS = frozenset({"model.sig", "provenance.intoto.json"})
"""What `signing` puts beside a published version's files; it is checked by signature, not by the artifact's list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactFile:
    """One file of an artifact."""

    bytes: int
    sha256: str


def artifact_key(digest: str, path: str) -> str:
    """Where a file of an artifact lies in the store."""
    return f"artifacts/{digest}/{path}"


def upload_artifact(store: ObjectStore, directory: Path) -> tuple[str, int]:
    """Puts a directory into the store under the digest of its files; that digest, and the bytes of all files.

    What is there already with the same size is not sent again. Errors: BadInput, those of the store.
    """
    files = {path: _described(directory / path) for path in regular_files(directory)}
    if problem := _problem_of(files):
        raise BadInput(
            "the artifact cannot be kept", why=problem, do="Its files need plain names.", file=directory.name
        )
    digest = _digest_of(files)
    for path, file in files.items():
        there = store.stat(artifact_key(digest, path))
        if there is None or there.bytes != file.bytes:
            store.upload(directory / path, artifact_key(digest, path))
    listing = {path: {"bytes": file.bytes, "sha256": file.sha256} for path, file in files.items()}
    store.put(artifact_key(digest, LISTING), json.dumps({"files": listing}, indent=1).encode())
    return digest, sum(file.bytes for file in files.values())


def artifact_files(store: ObjectStore, digest: str) -> Mapping[str, ArtifactFile]:
    """What an artifact consists of, by relative path.

    Errors: NotFound, if there is no such artifact or it is not complete; Damaged, if the list is not what its digest says.
    """
    if not is_sha256(digest):
        raise BrokenInvariant(f"{digest!r} does not name an artifact: 64 hex digits do")
    key = artifact_key(digest, LISTING)
    try:
        data = store.get(key)
    except NotFound as error:
        raise NotFound(f"there is no complete artifact {digest} in {store.url}: {key} is missing") from error
    files = _parsed(data)
    problem = "it is not the list of files that prunefleet writes" if files is None else _problem_of(files)
    if files is None or problem:
        raise Damaged(f"{key} is damaged: {problem}. Delete it; the next run makes the artifact again.")
    if (found := _digest_of(files)) != digest:
        raise Damaged(
            f"{key} is damaged: the digest of the files it lists is {found}, not {digest}. Delete it."
        )
    return files


def download_artifact(store: ObjectStore, digest: str, into: Path) -> None:
    """Reads an artifact into an empty directory, every file checked. Errors: NotFound, Damaged, those of the store."""
    if any(into.iterdir()):
        raise BrokenInvariant(f"{into} is not empty")
    for path, file in artifact_files(store, digest).items():
        target = into / path
        target.parent.mkdir(parents=True, exist_ok=True)
        key = artifact_key(digest, path)
        try:
            store.download(key, target)
        except NotFound as error:
            raise Damaged(f"{key} is missing although {LISTING} names it; {_AGAIN}") from error
        if (found := _described(target)) != file:
            raise Damaged(
                f"{key} is damaged: {found.bytes} bytes with SHA-256 {found.sha256} instead of "
                f"{file.bytes} with {file.sha256}; {_AGAIN}"
            )


_AGAIN = f"delete it and the {LISTING} beside it, and the result of the unit that made it: the next run makes it again."


def differences(
    directory: Path, files: Mapping[str, ArtifactFile], beside: frozenset[str] = frozenset()
) -> list[str]:
    """How a directory differs from an artifact, one line a file; empty if it is exactly that, seals and `beside` apart."""
    try:
        there = set(regular_files(directory))
    except BadInput as error:
        return [str(error)]
    lines = [f"{shown(path)} does not belong there" for path in sorted(there - files.keys() - SEALS - beside)]
    lines += [f"{shown(path)} is missing" for path in sorted(files.keys() - there)]
    for path in sorted(there & files.keys()):
        if (found := _described(directory / path)) != files[path]:
            lines.append(f"{shown(path)} has SHA-256 {found.sha256} instead of {files[path].sha256}")
    return lines


def _described(path: Path) -> ArtifactFile:
    return ArtifactFile(bytes=path.stat().st_size, sha256=sha256_of(path))


def _digest_of(files: Mapping[str, ArtifactFile]) -> str:
    return digest_files({path: file.sha256 for path, file in files.items()})


def _parsed(data: bytes) -> dict[str, ArtifactFile] | None:
    try:
        listing: Any = json.loads(data)
    except (ValueError, RecursionError):
        return None
    files = {}
    match listing:
        case {"files": dict(items)} if items:
            for path, item in items.items():
                match item:
                    case {"bytes": int(size), "sha256": str(sha256)} if size >= 0 and is_sha256(sha256):
                        files[path] = ArtifactFile(bytes=size, sha256=sha256)
                    case _:
                        return None
            return files
    return None


def _problem_of(files: Mapping[str, ArtifactFile]) -> str:
    if not files:
        return "it has no files"
    for path in files:
        if why := problem_of_path(path):
            return f"the name {shown(path)!r} cannot be used: {why}"
    if LISTING in files:
        return f"{LISTING} is the store's own list"
    if both := clash(files):
        return f"{shown(both[0])!r} and {shown(both[1])!r} are one name on some file systems"
    return ""

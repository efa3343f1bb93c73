"""Pure. What a registry's files were when they were last read, so that a quiet night reads none of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

FORMAT = 2  # raise it when anything derived from a version's files is derived differently
RACY_NANOSECONDS = 2_000_000_000  # the coarsest clock of a file system in use: FAT counts in 2 s


class FileIdentity(NamedTuple):
    """What a file system vouches for: as long as it is the same, so are the bytes."""

    bytes: int
    modified_ns: int
    changed_ns: int
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What is derived from a version's bytes."""

    digest: str
    architecture: str
    bytes: int
    parameters: int
    format: str

    def as_list(self) -> list[str | int]:
        """As it is remembered."""
        return [self.digest, self.architecture, self.bytes, self.parameters, self.format]


@dataclass(slots=True)
class DigestMemory:
    """One registry's memory: what an earlier scan found (`before`), and what this one has (`now`)."""

    at: float
    """When the scan began, in seconds since the epoch; a file touched later than 2 s before that is not remembered."""
    before: Mapping[str, Any] = field(default_factory=dict)
    now: dict[str, Any] = field(default_factory=dict)

    def summary(self, path: str, files: Mapping[str, FileIdentity]) -> Summary | None:
        """What is known of a version whose files are exactly these, or None; keeps it for the next scan."""
        known = self.before.get(path)
        if not isinstance(known, dict) or (summary := _summary(known.get("summary"))) is None:
            return None
        remembered = known.get("files")
        if not isinstance(remembered, dict) or remembered.keys() != files.keys():
            return None
        if not all(_is_same(remembered[name], identity) for name, identity in files.items()):
            return None
        self.now[path] = known
        return summary

    def sha256(self, path: str, name: str, identity: FileIdentity) -> str | None:
        """The digest of one file of a version, if it is known under this identity."""
        known = self.before.get(path)
        files = known.get("files") if isinstance(known, dict) else None
        entry = files.get(name) if isinstance(files, dict) else None
        if entry is None or not _is_same(entry, identity):
            return None
        return entry[-1] or None

    def remember(
        self, path: str, files: Mapping[str, FileIdentity], digests: Mapping[str, str], summary: Summary
    ) -> None:
        """Keeps a version's files for the next scan, except those that may still be being written.

        `digests` are those of the files that make up the model; of the others only the identity matters.
        """
        kept = {
            name: [*identity, digests.get(name, "")]
            for name, identity in files.items()
            if not self._is_racy(identity)
        }
        self.now[path] = {"files": kept, "summary": summary.as_list() if len(kept) == len(files) else None}

    def vouched(self, path: str, token: str) -> tuple[Summary, bool] | str | None:
        """What is known of a version under what its registry vouches for: its summary and whether prunefleet made it, or
        what is wrong with it; kept for the next scan."""
        known = self.before.get(path)
        if not isinstance(known, dict) or known.get("vouched") != token:
            return None
        if (summary := _summary(known.get("summary"))) is not None:
            self.now[path] = known
            return summary, bool(known.get("ours"))
        problem = known.get("problem")
        if not isinstance(problem, str) or not problem:
            return None
        self.now[path] = known
        return problem

    def remember_vouched(self, path: str, token: str, found: tuple[Summary, bool] | str) -> None:
        """Keeps a version for the next scan, under what its registry vouches for."""
        if isinstance(found, str):
            self.now[path] = {"vouched": token, "problem": found}
            return
        summary, is_ours = found
        self.now[path] = {
            "vouched": token,
            "summary": summary.as_list(),
            **({"ours": True} if is_ours else {}),
        }

    def _is_racy(self, identity: FileIdentity) -> bool:
        """Whether a write after this scan could leave the identity as it is; the time of change cannot be set by anyone."""
        at = int(self.at * 1e9)
        return (
            identity.changed_ns > at - RACY_NANOSECONDS or abs(identity.modified_ns - at) < RACY_NANOSECONDS
        )


def load_memory(data: bytes | None, at: float) -> tuple[DigestMemory, str]:
    """A stored memory, and why it cannot be used if it cannot: then everything is read again."""
    if data is None:
        return DigestMemory(at), ""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        return DigestMemory(at), f"it is damaged: {error}"
    if not isinstance(value, dict) or not isinstance(value.get("versions"), dict):
        return DigestMemory(at), "it is damaged: it is not what prunefleet writes"
    if value.get("format") != FORMAT:
        return DigestMemory(at), "another version of prunefleet wrote it"
    return DigestMemory(at, value["versions"]), ""


def dump_memory(memory: DigestMemory) -> bytes:
    """What to store of the scan that is over."""
    return json.dumps(
        {"format": FORMAT, "versions": dict(sorted(memory.now.items()))}, separators=(",", ":")
    ).encode()


def _is_same(entry: Any, identity: FileIdentity) -> bool:
    """Whether a remembered file, its identity followed by its digest, has this identity."""
    return (
        isinstance(entry, list)
        and len(entry) == 5
        and tuple(entry[:4]) == identity
        and isinstance(entry[4], str)
    )


def _summary(value: Any) -> Summary | None:
    match value:
        case [str(digest), str(name), int(size), int(parameters), str(kind)] if digest:
            return Summary(digest=digest, architecture=name, bytes=size, parameters=parameters, format=kind)
    return None

"""Effects. What is known of each job that is done: from what it was made, its files and its scores."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("numpy", "pyarrow", "safetensors", "scikit-learn", "tokenizers", "torch", "transformers")
RECORDS = "records.json"

Scores = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One job that is done."""

    key: str
    """Digest of the zoo's sources, its settings among them, and of the versions of what it runs on."""
    files: Mapping[str, str]
    """Path, relative to the zoo -> SHA-256 of its bytes."""
    scores: Scores


def source_key() -> str:
    """What every job's result depends on, as one digest."""
    here = Path(__file__).resolve().parent
    sources = {path.name: _digest(path) for path in sorted(here.glob("*.py"))}
    versions = {name: version(name) for name in LIBRARIES}
    basis = {"sources": sources, "versions": versions, "python": platform.python_version()}
    return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()


def read_records(zoo: Path) -> dict[str, Record]:
    """Job -> what is recorded of it; a record that cannot be read counts as none."""
    try:
        stored = json.loads((zoo / RECORDS).read_text())
        return {job: Record(**fields) for job, fields in stored.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}


def write_records(zoo: Path, records: Mapping[str, Record]) -> None:
    """Write what is known of the jobs, and `scores.json`, each in one go."""
    stored = {job: asdict(record) for job, record in sorted(records.items())}
    scores = [score for job in sorted(records) for score in records[job].scores]
    for name, value in ((RECORDS, stored), ("scores.json", scores)):
        written = zoo / f".{name}.new"
        written.write_text(json.dumps(value, indent=1) + "\n")
        os.replace(written, zoo / name)


def is_intact(zoo: Path, record: Record | None, key: str, directory: Path) -> bool:
    """Whether a job is done from the present sources, and its directory holds its files and no other."""
    if record is None or record.key != key:
        return False
    present = {path.relative_to(zoo).as_posix() for path in _files(directory)}
    return present == set(record.files) and all(
        _digest(zoo / name) == digest for name, digest in record.files.items()
    )


def digests(zoo: Path, directory: Path) -> dict[str, str]:
    """Path, relative to the zoo -> digest, of every file of a directory."""
    return {path.relative_to(zoo).as_posix(): _digest(path) for path in _files(directory)}


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""Effects. The datasets' files: found, digested, and put where every worker can read them."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable
from pathlib import Path

from orchestrator.domain import DataRef
from orchestrator.planning import DataFile, datasets_wanted
from orchestrator.ports import ObjectStore
from orchestrator.spec import Fleet
from orchestrator.worker import data_key

SUFFIXES = {"text": (".jsonl", ".parquet"), "arrays": (".parquet",), "choices": (".jsonl",)}


def find_data(fleet: Fleet) -> dict[str, DataFile]:
    """Dataset name -> its file, of those that some recipe reads; what is wrong with one stands in `problem`."""
    return {
        name: _find(fleet.datasets[name].path, fleet.datasets[name].kind) for name in datasets_wanted(fleet)
    }


def share_data(store: ObjectStore, refs: Iterable[DataRef]) -> None:
    """Uploads each dataset file that the store does not hold yet, under its digest."""
    for ref in {ref.digest: ref for ref in refs}.values():
        if store.stat(data_key(ref.digest)) is None:
            store.upload(Path(ref.path), data_key(ref.digest))


def _find(path: str, kind: str) -> DataFile:
    try:
        with open(path, "rb") as file:
            import os

            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return _problem(path, "it is no regular file")
            if Path(path).suffix not in SUFFIXES[kind]:
                return _problem(
                    path, f"a dataset of kind {kind} is a file ending in {' or '.join(SUFFIXES[kind])}"
                )
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return DataFile(path=path, digest=digest, bytes=status.st_size)
    except OSError as error:
        return _problem(path, error.strerror or type(error).__name__)


def _problem(path: str, why: str) -> DataFile:
    return DataFile(
        path=path, digest="", bytes=0, problem=f"{path} cannot be used: {why}. Correct datasets.*.path"
    )

"""Effects. The datasets' files: found, digested, and put where every worker can read them."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path

from orchestrator.domain import DataRef
from orchestrator.errors import DataChanged
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
    """Uploads each dataset file that the store does not hold yet, under its digest. Errors: DataChanged; those of the store."""
    for ref in {ref.digest: ref for ref in refs}.values():
        if store.stat(data_key(ref.digest)) is not None:
            continue
        store.upload(Path(ref.path), data_key(ref.digest))
        with open(ref.path, "rb") as file:
            is_same = _digest(file) == ref.digest
        if not is_same:
            store.delete(data_key(ref.digest))
            raise DataChanged(f"{ref.path} was written to while the run began; run again once it is whole")


def _digest(file: BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _find(path: str, kind: str) -> DataFile:
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return _problem(path, "it is no regular file")
            if Path(path).suffix not in SUFFIXES[kind]:
                return _problem(
                    path, f"a dataset of kind {kind} is a file ending in {' or '.join(SUFFIXES[kind])}"
                )
            digest = _digest(file)
            return DataFile(path=path, digest=digest, bytes=status.st_size)
    except OSError as error:
        return _problem(path, error.strerror or type(error).__name__)


def _problem(path: str, why: str) -> DataFile:
    return DataFile(
        path=path, digest="", bytes=0, problem=f"{path} cannot be used: {why}. Correct datasets.*.path"
    )

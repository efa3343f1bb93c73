"""Small data files, and the sets that they make."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.contract import Dataset


def lines(path: Path, *values: Mapping[str, Any] | str) -> Path:
    file = path / "data.jsonl"
    file.write_text("".join((v if isinstance(v, str) else json.dumps(v)) + "\n" for v in values))
    return file


def parquet(path: Path, table: pa.Table) -> Path:
    file = path / "data.parquet"
    pq.write_table(table, file)
    return file


def text_set(path: Path, **others: Any) -> Dataset:
    return Dataset(path=path, kind="text", **{"split": "all", **others})


def array_set(path: Path, **others: Any) -> Dataset:
    return Dataset(path=path, kind="arrays", **{"split": "all", **others})


def floats(*values: Any, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(list(values), kind or pa.list_(pa.float32()))

"""Effects. Result objects: how a finished unit is written down, made real exactly once, found and read again."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pyarrow as pa

from orchestrator.errors import Damaged
from orchestrator.ports import ObjectStore
from orchestrator.tables import schemas
from orchestrator.tables.listing import result_key
from orchestrator.tables.row_digest import row_digest

_METADATA = b"prunefleet"
_METADATA_DIGEST = b"prunefleet_sha256"

_LAST_MOMENT = 253_402_300_800  # seconds: the year 10000
_NUMBER = (int, float)
PROVENANCE: Mapping[str, type | tuple[type, ...]] = {
    "unit_key": str,
    "run_id": str,
    "registry": str,
    "model": str,
    "version": str,
    "model_digest": str,
    "recipe": str,
    "task": str,
    "params": str,
    "pool": str,
    "node": str,
    "attempt": str,
    "started_at": _NUMBER,
    "finished_at": _NUMBER,
    "wall_seconds": _NUMBER,
    "cpu_seconds": _NUMBER,
    "gpu_seconds": _NUMBER,
    "peak_memory_bytes": int,
    "predicted_seconds": _NUMBER,
    "model_bytes": int,
    "parameters": int,
    "code_version": str,
    "seed": int,
}
"""What is known of how a result came to be; `*_at` are seconds since the epoch. All but the first seven may be null."""
_REQUIRED = (*schemas.IDENTITY, "task")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One finished unit as it was read: its rows, and how they came to be."""

    task: str
    table: pa.Table
    """All its rows, each naming its table (see `schemas.result_schema`)."""
    provenance: Mapping[str, Any]
    content_sha256: str
    """Of the rows alone: equal for two computations that agree."""

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of one table, with that table's own columns."""
        return schemas.rows_of(self.table, table)


class Commit(StrEnum):
    """What became of a result that was offered to the store."""

    CREATED = "created"
    EXISTED_EQUAL = "existed_equal"
    """Another had written the same rows, or the clock's (see `schemas.is_clocked`); nothing was lost but time."""
    EXISTED_DIFFERENT = "existed_different"
    """Another had written other rows: the computation is not deterministic. The first rows stay."""


def encode(
    task: str, tables: Mapping[str, Sequence[Mapping[str, Any]]], provenance: Mapping[str, Any]
) -> bytes:
    """The bytes of a result object: an Arrow IPC file of its rows, with the provenance in the schema's metadata."""
    table = schemas.result_table(task, tables).combine_chunks()
    if problem := _provenance_problem(provenance, task):
        raise ValueError(f"the provenance of a result is wrong: {problem}")
    note = {**provenance, "content_sha256": row_digest(table)}
    text = json.dumps(note, sort_keys=True, allow_nan=False, ensure_ascii=False).encode()
    metadata = {_METADATA: text, _METADATA_DIGEST: hashlib.sha256(text).hexdigest().encode()}
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    with pa.ipc.new_file(sink, table.schema.with_metadata(metadata), options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def decode(data: bytes) -> Result:
    """A result object from its bytes. Errors: Damaged, with what is wrong; foreign bytes run no code."""
    try:
        options = pa.ipc.IpcReadOptions(use_threads=False)
        with pa.ipc.open_file(pa.BufferReader(data), options=options) as reader:
            note = _note_of(reader.schema.metadata or {})
            task = note["task"]
            _check_columns(reader.schema, task)
            table = reader.read_all().replace_schema_metadata(None)
        table.validate(full=True)
        content = row_digest(table)
    except (pa.ArrowException, OSError, ValueError, MemoryError, RecursionError) as error:
        raise Damaged(f"no result object: {_first_line(error)}") from error
    if content != note.pop("content_sha256"):
        raise Damaged("its rows are not those that were written: their digest differs")
    return Result(task=task, table=_current(table, task), provenance=note, content_sha256=content)


def commit(store: ObjectStore, task: str, unit_key: str, data: bytes) -> Commit:
    """Makes a result real unless another did; rows that differ from those that are there are recorded as a finding.

    Errors: Damaged, if what is there cannot be read; the store's errors.
    """
    key = result_key(task, unit_key)
    if store.put_if_absent(key, data):
        return Commit.CREATED
    kept, offered = read(store, task, unit_key), decode(data)
    is_equal = kept.content_sha256 == offered.content_sha256
    if is_equal or schemas.is_clocked(task, offered.provenance.get("params")):
        return Commit.EXISTED_EQUAL
    _record_nondeterminism(store, kept, offered)
    return Commit.EXISTED_DIFFERENT


def read(store: ObjectStore, task: str, unit_key: str) -> Result:
    """The result of a unit. Errors: NotFound; Damaged, naming the object."""
    key = result_key(task, unit_key)
    data = store.get(key)
    try:
        result = decode(data)
        if (result.task, result.provenance["unit_key"]) != (task, unit_key):
            raise Damaged(f"it is the result of {result.task} {result.provenance['unit_key']}")
    except Damaged as error:
        raise Damaged(
            f"{key} in {store.url}: {error}; delete the object, and the unit is computed again"
        ) from error
    return result


def identity_of(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that every row of this result carries in the tables."""
    return {name: provenance[name] for name in schemas.IDENTITY}


def _note_of(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    text = metadata.get(_METADATA)
    if text is None:
        raise Damaged("no result object: its schema has no provenance")
    if hashlib.sha256(text).hexdigest().encode() != metadata.get(_METADATA_DIGEST):
        raise Damaged("its provenance is not what was written: its digest differs")
    note = json.loads(text)
    if not isinstance(note, dict) or not isinstance(note.get("content_sha256"), str):
        raise Damaged("no result object: its provenance is not complete")
    if problem := _provenance_problem(note, note.get("task")):
        raise Damaged(f"its provenance is wrong: {problem}")
    return note


def _provenance_problem(provenance: Mapping[str, Any], task: Any) -> str:
    """What is wrong with a provenance; empty if nothing is. Further keys are allowed."""
    if missing := [name for name in _REQUIRED if provenance.get(name) is None]:
        return f"{', '.join(missing)} missing"
    for name, kind in PROVENANCE.items():
        value = provenance.get(name)
        if value is not None and (not isinstance(value, kind) or not _fits(value, name)):
            return f"{name} is {value!r}"
    if provenance["task"] != task or task not in schemas.RESULT_TABLES:
        return f"task is {provenance['task']!r}"
    return ""


def _fits(value: Any, name: str) -> bool:
    """Whether a column of the tables can hold the value."""
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
    return not isinstance(value, bool) and abs(value) < (_LAST_MOMENT if name.endswith("_at") else 2**63)


def _check_columns(schema: pa.Schema, task: str) -> None:
    known = _columns(task)
    if "table" not in schema.names or len(set(schema.names)) != len(schema.names):
        raise Damaged(f"its columns are not those of {task}: {', '.join(schema.names)}")
    for field in schema:
        if isinstance(field.type, pa.BaseExtensionType):
            raise Damaged(f"its column {field.name} has the foreign type {field.type}")
        if field.type != known.get(field.name, field.type):
            raise Damaged(f"its column {field.name} is {field.type}, and not {known[field.name]}")


def _current(table: pa.Table, task: str) -> pa.Table:
    """The same rows with today's columns: what an older version did not write is null, what a newer one added is left."""
    columns = _columns(task)
    if table.schema.equals(pa.schema(list(columns.items()))):  # also whether a column may be null
        return table
    there = set(table.schema.names)
    return pa.table(
        {name: table[name] if name in there else pa.nulls(len(table), kind) for name, kind in columns.items()}
    )


@functools.cache
def _columns(task: str) -> Mapping[str, pa.DataType]:
    return {field.name: field.type for field in schemas.result_schema(task)}


def _record_nondeterminism(store: ObjectStore, kept: Result, offered: Result) -> None:
    """One row of `findings` in the run that noticed it; named by the content, so that it is recorded once."""
    ours, theirs = offered.provenance, kept.provenance
    message = (
        f"attempt {ours.get('attempt')} on {ours.get('node')} computed other rows than attempt "
        f"{theirs.get('attempt')} of run {theirs['run_id']} on {theirs.get('node')}, which stay: content "
        f"{offered.content_sha256[:16]}, kept {kept.content_sha256[:16]}"
    )
    row = {**identity_of(ours), "kind": "nondeterminism", "subject": offered.task, "message": message}
    name = f"{ours['unit_key']}-{offered.content_sha256[:16]}"
    key = f"runs/{ours['run_id']}/nondeterminism/{name}.json"
    store.put_if_absent(key, json.dumps(row, ensure_ascii=False).encode())


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]

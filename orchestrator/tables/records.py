"""Effects. The small JSON objects that runs leave behind (attempts, ends, promotions), as Arrow tables."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from orchestrator.errors import Damaged, NotFound
from orchestrator.ports import ObjectStore
from orchestrator.tables import schemas

_THREADS = 16
_PLACES: Mapping[str, tuple[str, re.Pattern[str]]] = {
    "runs": ("runs/", re.compile(r"runs/(?P<run_id>[^/]+)/closed\.json\Z")),
    "attempts": ("runs/", re.compile(r"runs/(?P<run_id>[^/]+)/attempts/[^/]+\.json\Z")),
    "findings": ("runs/", re.compile(r"runs/(?P<run_id>[^/]+)/nondeterminism/[^/]+\.json\Z")),
    "promotions": ("promotions/", re.compile(r"promotions/.+\.json\Z")),
}
"""Table -> where its records lie. `findings` are those that no result holds: two computations that differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """The rows that could be read, and what could not, each with its key and why."""

    table: pa.Table
    skipped: tuple[str, ...]


def read_records(store: ObjectStore, name: str) -> Records:
    """One table of small records, an object each (one row, or a list of rows), in key order."""
    prefix, pattern = _PLACES[name]
    found = [(key.key, match) for key in store.list(prefix) if (match := pattern.match(key.key))]
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = list(pool.map(lambda item: _rows(store, name, item[0], item[1].groupdict()), found))
    rows = [row for part in parts if not isinstance(part, str) for row in part]
    return Records(
        table=pa.Table.from_pylist(rows, schema=schemas.TABLES[name]),
        skipped=tuple(part for part in parts if isinstance(part, str)),
    )


def _rows(store: ObjectStore, name: str, key: str, known: Mapping[str, str]) -> list[dict[str, Any]] | str:
    """The rows of one record, or why it has none."""
    try:
        value = json.loads(store.get(key))
        rows = value if isinstance(value, list) else [value]
        return [_row(name, {**known, **row}) for row in rows]
    except NotFound:
        return []
    except (ValueError, TypeError, RecursionError, Damaged) as error:
        return f"{key}: {error}"


def _row(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of the table, each of its type; other keys are left."""
    schema = schemas.TABLES[name]
    return {field.name: _cell(field, row[field.name]) for field in schema if row.get(field.name) is not None}


def _cell(field: pa.Field, value: Any) -> Any:
    if pa.types.is_timestamp(field.type):
        return moment(value)
    if pa.types.is_string(field.type) and isinstance(value, str):
        value.encode()  # text that is no Unicode is refused here, by name
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if pa.types.is_integer(field.type) and is_number and abs(value) < 2**63 and int(value) == value:
        return int(value)
    raise ValueError(f"{field.name} is {value!r}, which is no {field.type}")


def moment(value: Any) -> datetime:
    """Seconds since the epoch, or ISO text, as a time in UTC. Errors: ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise ValueError(f"{value!r} is no time") from error
    if isinstance(value, str):
        read = datetime.fromisoformat(value)
        return read if read.tzinfo else read.replace(tzinfo=UTC)
    raise ValueError(f"{value!r} is no time")


def merged(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables below each other; a column that one lacks is null there."""
    return pa.concat_tables(tables, promote_options="permissive")

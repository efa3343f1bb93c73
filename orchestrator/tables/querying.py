"""Effects. SQL over what the store holds, by DuckDB, which sees these tables and nothing else."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from orchestrator.errors import NotFound, NotPermitted, QueryError
from orchestrator.ports import ObjectStore
from orchestrator.tables import schemas
from orchestrator.tables.delta import read_table
from orchestrator.tables.folding import fold
from orchestrator.tables.records import merged, read_records

logger = logging.getLogger(__name__)

PLAN = pa.schema(
    [(name, pa.string()) for name in ("run_id", "unit_key", "task", *schemas.IDENTITY[2:], "state")]
)
"""Columns of `plan` where no run has one; otherwise those that the runs wrote, and `run_id`."""

RECORDED = ("runs", "attempts", "promotions")
TABLES = (*schemas.FOLDED, *RECORDED, "plan")
"""The tables that a query may name."""

_PLAN_KEY = re.compile(r"runs/([^/]+)/plan\.parquet\Z")
_THREADS = 16
_SETTINGS = (
    "SET python_enable_replacements = false",  # else a query could read this process's variables
    "SET temp_directory = ''",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
_CLOSED: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}

Notice = Callable[[str], None]


def query(store: ObjectStore, sql: str, notice: Notice = logger.warning) -> pa.Table:
    """The answer to one SELECT (or WITH, DESCRIBE, SHOW, SUMMARIZE) over `TABLES`, folded up to now.

    Where the store may only be read, the tables answer as they are, and `notice` is told; as it is of what was left out.
    Errors: QueryError, with the tables there are; the store's errors.
    """
    with duckdb.connect(":memory:", config=_CLOSED) as connection:
        _check_statement(connection, sql)
        named = _named_tables(sql)
        if named & {*schemas.FOLDED}:
            _fold(store, notice)
        for name in TABLES:
            source = _source(store, name, notice) if name in named else _empty(name)
            connection.register(name, source)
        for setting in _SETTINGS:
            connection.execute(setting)
        try:
            answer: pa.Table = connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise QueryError(_explanation(error)) from error
        return answer.rename_columns(_told_apart(answer.column_names))


def _told_apart(names: Sequence[str]) -> list[str]:
    """The names of columns, the second `a` as `a_1`: rows as mappings, and Polars, have room for each name once."""
    told: list[str] = []
    for name in names:
        others = (f"{name}_{number}" for number in count(1))
        told.append(name if name not in told else next(one for one in others if one not in {*told, *names}))
    return told


def _check_statement(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(_explanation(error)) from error
    if len(statements) != 1:
        raise QueryError(f"a query is one statement, and this is {len(statements)}")
    if statements[0].type != duckdb.StatementType.SELECT:
        kind = statements[0].type.name
        raise QueryError(f"a query only reads: SELECT, WITH, DESCRIBE, SHOW or SUMMARIZE, but this is {kind}")


def _named_tables(sql: str) -> set[str]:
    """The tables that the text may be about; only these are read."""
    return {*re.findall(r"\w+", sql.lower())} & {*TABLES}


def _fold(store: ObjectStore, notice: Notice) -> None:
    try:
        folded = fold(store)
    except NotPermitted as error:
        notice(f"newer results may be missing, for the tables cannot be brought up to date: {error}")
        return
    for skipped in folded.skipped:
        notice(f"left out unit {skipped.unit_key}: {skipped.reason}")
    if folded.foreign:
        notice(f"left out {folded.foreign} objects under results/ that are no results")


def _source(store: ObjectStore, name: str, notice: Notice) -> Any:
    """What DuckDB reads a table from."""
    if name == "plan":
        return _plans(store, notice)
    if name in RECORDED:
        return _recorded(store, name, notice)
    folded = read_table(store, name)
    if name != "findings":
        return _empty(name) if folded is None else folded
    noticed = _recorded(store, name, notice)
    return noticed if folded is None else merged([folded.to_table(), noticed])


def _recorded(store: ObjectStore, name: str, notice: Notice) -> pa.Table:
    records = read_records(store, name)
    for skipped in records.skipped:
        notice(f"left out a record of {name}: {skipped}")
    return records.table


def _plans(store: ObjectStore, notice: Notice) -> pa.Table:
    matches = [match for found in store.list("runs/") if (match := _PLAN_KEY.match(found.key))]
    with ThreadPoolExecutor(_THREADS) as pool:
        plans = list(pool.map(lambda match: _plan(store, match[0], match[1]), matches))
    for plan in plans:
        if isinstance(plan, str):
            notice(f"left out a plan: {plan}")
    tables = [plan for plan in plans if not isinstance(plan, str)]
    try:
        return merged([PLAN.empty_table(), *tables])
    except pa.ArrowException as error:
        raise QueryError(f"the plans of the runs do not fit together: {error}") from error


def _plan(store: ObjectStore, key: str, run_id: str) -> pa.Table | str:
    try:
        table = pa.parquet.ParquetFile(pa.BufferReader(store.get(key))).read(use_threads=False)
    except (pa.ArrowException, OSError, ValueError, NotFound) as error:
        return f"{key}: {error}"
    if "run_id" in table.schema.names:
        return table
    return table.append_column("run_id", pa.repeat(pa.scalar(run_id), len(table)))


def _empty(name: str) -> pa.Table:
    return (PLAN if name == "plan" else schemas.TABLES[name]).empty_table()


def _explanation(error: duckdb.Error) -> str:
    """DuckDB's own words, and after an unknown name the tables there are."""
    said = str(error).strip()
    unknown = re.search(r"Table with name (.+?) does not exist", said)
    if not unknown:
        return said
    close = difflib.get_close_matches(unknown[1].lower(), TABLES, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"there is no table {unknown[1]!r}; {hint}known: {', '.join(TABLES)}"

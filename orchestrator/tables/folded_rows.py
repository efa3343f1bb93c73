"""Pure. Results -> the rows that they add to each table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.tables import schemas
from orchestrator.tables.results import Result

_TIMES = ("started_at", "finished_at")


def without_bulk(result: Result) -> pa.Table:
    """The rows that go into tables; one row an example stays in the result object."""
    names = (*schemas.RESULT_TABLES[result.task], "findings")
    kept = [name for name in names if name in schemas.FOLDED]
    if len(kept) == len(names):
        return result.table
    return result.table.filter(pc.is_in(result.table["table"], pa.array(kept)))


def rows_by_table(found: Sequence[Result]) -> Mapping[str, pa.Table]:
    """Every folded table's rows, those of one task together, in the order of the results."""
    parts: dict[str, list[pa.Table]] = {name: [schemas.TABLES[name].empty_table()] for name in schemas.FOLDED}
    parts["units"].append(_unit_rows(found))
    for task, names in schemas.RESULT_TABLES.items():
        members = [result for result in found if result.task == task]
        if members:
            rows = _with_identity(members)
            for name in (*names, "findings"):
                if name in schemas.FOLDED:
                    of_table = rows.filter(pc.equal(rows["table"], name))
                    parts[name].append(of_table.select(schemas.TABLES[name].names))
    return {name: pa.concat_tables(tables) for name, tables in parts.items()}


def _with_identity(members: Sequence[Result]) -> pa.Table:
    """The rows of results of one task below each other, each with its result's identity columns."""
    tables = [without_bulk(result) for result in members]
    owner = pa.array(np.repeat(np.arange(len(members)), [len(table) for table in tables]))
    rows = pa.concat_tables(tables)
    for name in schemas.IDENTITY:
        values = pa.array([result.provenance[name] for result in members], pa.string())
        rows = rows.append_column(name, values.take(owner))
    return rows


def _unit_rows(found: Sequence[Result]) -> pa.Table:
    schema = schemas.TABLES["units"]
    rows = pa.Table.from_pylist(
        [{**result.provenance, "status": "done"} for result in found],
        schema=pa.schema([pa.field(f.name, pa.float64() if f.name in _TIMES else f.type) for f in schema]),
    )
    for name in _TIMES:
        seconds = rows[name]
        moments = pc.round(pc.multiply(seconds, 1e6)).cast(pa.int64()).cast(schema.field(name).type)
        rows = rows.set_column(rows.schema.get_field_index(name), schema.field(name), moments)
    return rows

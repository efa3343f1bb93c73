"""Pure. The columns of every table, in one place; a result object's schema is made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

_IDENTITY = [
    ("unit_key", pa.string()),
    ("run_id", pa.string()),
    ("registry", pa.string()),
    ("model", pa.string()),
    ("version", pa.string()),
    ("model_digest", pa.string()),
    ("recipe", pa.string()),
]
IDENTITY = tuple(name for name, _ in _IDENTITY)
"""The columns that every row of every folded table carries; the run and recipe are those that first computed it."""

_TABLES: Mapping[str, Sequence[tuple[str, pa.DataType]]] = {
    "units": [
        ("task", pa.string()),
        ("params", pa.string()),
        ("status", pa.string()),
        ("pool", pa.string()),
        ("node", pa.string()),
        ("attempt", pa.string()),
        ("started_at", pa.timestamp("us", "UTC")),
        ("finished_at", pa.timestamp("us", "UTC")),
        ("wall_seconds", pa.float64()),
        ("cpu_seconds", pa.float64()),
        ("gpu_seconds", pa.float64()),
        ("peak_memory_bytes", pa.int64()),
        ("predicted_seconds", pa.float64()),
        ("model_bytes", pa.int64()),
        ("parameters", pa.int64()),
        ("code_version", pa.string()),
        ("seed", pa.int64()),
    ],
    "sensitivity": [
        ("layer", pa.string()),
        ("group", pa.string()),
        ("criterion", pa.string()),
        ("pattern", pa.string()),
        ("amount", pa.float64()),
        ("metric", pa.string()),
        ("dense_value", pa.float64()),
        ("value", pa.float64()),
        ("delta", pa.float64()),
        ("stderr", pa.float64()),
        ("samples", pa.int64()),
        ("tokens", pa.int64()),
        ("method", pa.string()),
        ("parameters", pa.int64()),
    ],
    "layers": [
        ("layer", pa.string()),
        ("parameters", pa.int64()),
        ("pruned_parameters", pa.int64()),
        ("amount_asked", pa.float64()),
        ("amount", pa.float64()),
        ("reconstruction_error", pa.float64()),
    ],
    "artifacts": [
        ("uri", pa.string()),
        ("digest", pa.string()),
        ("dense_bytes", pa.int64()),
        ("bytes", pa.int64()),
        ("dense_parameters", pa.int64()),
        ("parameters", pa.int64()),
        ("nonzero_parameters", pa.int64()),
        ("dense_flops", pa.int64()),
        ("flops", pa.int64()),
        ("dense_latency_seconds", pa.float64()),
        ("latency_seconds", pa.float64()),
        ("runtime", pa.string()),
        ("effective_flops", pa.int64()),
        ("sparse_bytes", pa.int64()),
        ("calibration_loss", pa.float64()),
        ("predicted_increase", pa.float64()),
        ("least_increase", pa.float64()),
        ("measured_increase", pa.float64()),
        ("latency_ratio", pa.float64()),
        ("latency_ratio_low", pa.float64()),
        ("latency_ratio_high", pa.float64()),
        ("latency_timings", pa.int64()),
    ],
    "recoveries": [
        ("step", pa.string()),
        ("loss_before", pa.float64()),
        ("loss_after", pa.float64()),
        ("kept", pa.bool_()),
        ("steps", pa.int64()),
        ("tensors", pa.int64()),
        ("samples", pa.int64()),
        ("fresh_before", pa.float64()),
        ("fresh_after", pa.float64()),
        ("fresh_samples", pa.int64()),
    ],
    "outcomes": [
        ("example", pa.int64()),
        ("slices", pa.map_(pa.string(), pa.string())),
        ("loss", pa.float64()),
        ("tokens", pa.int64()),
        ("label", pa.int64()),
        ("prediction", pa.int64()),
        ("correct", pa.bool_()),
        ("probabilities", pa.list_(pa.float32())),
        ("length", pa.int64()),
        ("kl", pa.list_(pa.float32())),
        ("flips", pa.int64()),
        ("distance", pa.float64()),
        ("absolute_error", pa.float64()),
        ("target", pa.list_(pa.float64())),
        ("answer", pa.list_(pa.float64())),
    ],
    "evaluations": [
        ("dataset", pa.string()),
        ("metric", pa.string()),
        ("slice", pa.string()),
        ("samples", pa.int64()),
        ("dense_value", pa.float64()),
        ("value", pa.float64()),
        ("delta", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("flips", pa.int64()),
        ("kl_divergence", pa.float64()),
        ("kl_p99", pa.float64()),
        ("agreement", pa.float64()),
        ("falls", pa.bool_()),
    ],
    "latencies": [
        ("runtime", pa.string()),
        ("device", pa.string()),
        ("batch", pa.int64()),
        ("sequence", pa.int64()),
        ("repetitions", pa.int64()),
        ("dense_seconds", pa.float64()),
        ("dense_low_seconds", pa.float64()),
        ("dense_high_seconds", pa.float64()),
        ("seconds", pa.float64()),
        ("low_seconds", pa.float64()),
        ("high_seconds", pa.float64()),
        ("speedup", pa.float64()),
        ("speedup_low", pa.float64()),
        ("speedup_high", pa.float64()),
    ],
    "verdicts": [
        ("verdict", pa.string()),
        ("gate", pa.string()),
        ("slice", pa.string()),
        ("observed", pa.float64()),
        ("limit", pa.float64()),
        ("p_value", pa.float64()),
        ("samples_needed", pa.int64()),
        ("upper_bound", pa.float64()),
        ("alpha", pa.float64()),
        ("samples", pa.int64()),
        ("worse", pa.int64()),
        ("better", pa.int64()),
    ],
    "exemplars": [
        ("example", pa.int64()),
        ("slices", pa.string()),
        ("measure", pa.string()),
        ("distance", pa.float64()),
        ("label", pa.int64()),
        ("dense_prediction", pa.int64()),
        ("prediction", pa.int64()),
    ],
    "findings": [("kind", pa.string()), ("subject", pa.string()), ("message", pa.string())],
    "attempts": [
        ("shard_id", pa.string()),
        ("attempt", pa.string()),
        ("pool", pa.string()),
        ("node", pa.string()),
        ("failure_class", pa.string()),
        ("error", pa.string()),
        ("file", pa.string()),
        ("line", pa.int64()),
    ],
    "runs": [
        ("fleet", pa.string()),
        ("started_at", pa.timestamp("us", "UTC")),
        ("finished_at", pa.timestamp("us", "UTC")),
        ("outcome", pa.string()),
        ("exit_code", pa.int64()),
        ("wanted", pa.int64()),
        ("done_before", pa.int64()),
        ("done", pa.int64()),
        ("failed", pa.int64()),
        ("impossible", pa.int64()),
    ],
    "promotions": [
        ("fleet", pa.string()),
        ("registry_url", pa.string()),
        ("alias", pa.string()),
        ("published_version", pa.string()),
        ("previous_version", pa.string()),
        ("artifact_digest", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
        ("actor", pa.string()),
        ("reason", pa.string()),
    ],
}

TABLES: Mapping[str, pa.Schema] = {
    name: pa.schema([*_IDENTITY, *columns]) for name, columns in _TABLES.items()
}
"""Table name -> schema, identity columns first."""

RESULT_TABLES: Mapping[str, tuple[str, ...]] = {
    "sensitivity": ("sensitivity",),
    "prune": ("layers", "artifacts", "recoveries"),
    "evaluate": ("outcomes",),
    "latency": ("latencies",),
    "judge": ("evaluations", "verdicts", "exemplars"),
}
"""The tables whose rows a task's result object holds; every result may also hold `findings` rows."""

CLOCKED = frozenset({"latency"})
"""Tasks whose rows are a clock's: two computations of one unit never agree, which says nothing against either."""


def is_clocked(task: str, params: str | None) -> bool:
    """Whether a clock had a say in the rows of a unit with these params, JSON as in its provenance.

    Of the units that prune, only those with a budget of latency: all others give the same bytes each time.
    """
    if task in CLOCKED:
        return True
    asked = json.loads(params) if task == "prune" and params else {}
    return "latency" in (asked.get("budget") or {})


FOLDED = (
    "units", "sensitivity", "layers", "artifacts", "recoveries", "evaluations", "latencies", "verdicts",
    "exemplars", "findings",
)  # fmt: skip
"""Tables folded from result objects. `outcomes` stays in them: one row an example is no index."""


def result_schema(task: str) -> pa.Schema:
    """Columns of a task's result object: `table`, naming the row's table, then the union of its tables' own columns."""
    fields: dict[str, pa.DataType] = {"table": pa.string()}
    for name in (*RESULT_TABLES[task], "findings"):
        for column, kind in _TABLES[name]:
            known = fields.setdefault(column, kind)
            assert known == kind, f"{column} has two types in the tables of {task}"
    return pa.schema(list(fields.items()))


def result_table(task: str, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> pa.Table:
    """Rows by table name -> one Arrow table; an unknown table or column is a bug and raises."""
    schema = result_schema(task)
    rows = []
    for name, members in tables.items():
        known = {column for column, _ in _TABLES[name]}
        for row in members:
            if unknown := set(row) - known:
                raise KeyError(f"table {name} has no column {sorted(unknown)}")
            rows.append({"table": name, **row})
    return pa.Table.from_pylist(rows, schema=schema)


def rows_of(result: pa.Table, name: str) -> list[dict[str, Any]]:
    """The rows of one table in a result object, with that table's own columns only."""
    import pyarrow.compute as pc

    columns = [column for column, _ in _TABLES[name]]
    part = result.filter(pc.equal(result["table"], name)).select(columns)
    rows: list[dict[str, Any]] = part.to_pylist(maps_as_pydicts="strict")
    return rows

"""The rows of folded tables, and that each is there once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from orchestrator.tables import listing, schemas
from orchestrator.tables.delta import read_table

CommitUnits = Callable[[Any, range], None]


UnitKey = Callable[[int], str]


ROWS_OF_FOUR = {
    "units": 4, "sensitivity": 3, "layers": 1, "artifacts": 1, "recoveries": 0, "evaluations": 1, "latencies": 0,
    "verdicts": 1, "exemplars": 0, "findings": 1,
}  # fmt: skip


"""Rows by table of any four consecutive units."""


def rows(store: Any, name: str) -> list[dict[str, Any]]:
    """A table's rows in an order of their own."""
    table = read_table(store, name)
    assert table is not None, name
    found: list[dict[str, Any]] = table.to_table().to_pylist()
    return sorted(found, key=repr)


def all_rows(store: Any) -> dict[str, list[dict[str, Any]]]:
    return {name: rows(store, name) for name in schemas.FOLDED}


def check_exactly_once(store: Any, units: int) -> None:
    """Every unit's rows are there once; `units` is a multiple of four."""
    found = all_rows(store)
    assert {name: len(table) for name, table in found.items()} == {
        name: count * units // 4 for name, count in ROWS_OF_FOUR.items()
    }
    assert max(Counter(row["unit_key"] for row in found["units"]).values()) == 1
    assert {row["unit_key"] for row in found["units"]} == listing.completed(store)

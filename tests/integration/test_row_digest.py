"""The digest of rows: the same for the same rows, however they are held."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.tables.row_digest import row_digest

SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("number", pa.int64()),
        ("real", pa.float64()),
        ("flag", pa.bool_()),
        ("reals", pa.list_(pa.float32())),
        ("tags", pa.map_(pa.string(), pa.string())),
    ]
)
_texts = st.none() | st.text(max_size=3)
_rows = st.lists(
    st.fixed_dictionaries(
        {
            "text": _texts,
            "number": st.none() | st.integers(-3, 3),
            "real": st.none() | st.sampled_from([0.0, -0.0, 1.5, float("inf")]),
            "flag": st.none() | st.booleans(),
            "reals": st.none() | st.lists(st.none() | st.sampled_from([0.0, 0.5]), max_size=2),
            "tags": st.none() | st.lists(st.tuples(st.text(max_size=1), _texts), max_size=2),
        }
    ),
    max_size=4,
)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@settings(max_examples=300, deadline=None)
@given(_rows, _rows)
def test_two_tables_share_a_digest_if_and_only_if_their_rows_agree(one: Any, other: Any) -> None:
    same = repr([sorted(row.items()) for row in one]) == repr([sorted(row.items()) for row in other])
    assert (row_digest(table(one)) == row_digest(table(other))) is same


@settings(max_examples=100, deadline=None)
@given(_rows)
def test_chunks_and_slices_and_the_order_of_columns_do_not_count(rows: Any) -> None:
    whole = table(rows)
    chunked = pa.concat_tables([whole.slice(at, 1) for at in range(len(whole))] or [whole])
    padded = pa.concat_tables([table([{"text": "before"}]), whole, table([{"number": 1}])]).combine_chunks()
    assert row_digest(chunked) == row_digest(whole)
    assert row_digest(padded.slice(1, len(whole))) == row_digest(whole)
    assert row_digest(whole.select(SCHEMA.names[::-1])) == row_digest(whole)


def test_the_order_of_rows_counts() -> None:
    rows: list[dict[str, Any]] = [{"number": 1}, {"number": 2}]
    assert row_digest(table(rows)) != row_digest(table(rows[::-1]))


def test_a_column_that_is_null_throughout_does_not_count() -> None:
    whole = table([{"number": 1}])
    assert row_digest(whole) == row_digest(whole.drop_columns(["text", "tags"]))


def test_texts_do_not_run_into_each_other() -> None:
    assert row_digest(table([{"text": "ab"}, {"text": "c"}])) != row_digest(
        table([{"text": "a"}, {"text": "bc"}])
    )


def test_a_null_is_not_the_value_that_stands_for_it() -> None:
    assert row_digest(table([{"number": 0}, {"number": 1}])) != row_digest(
        table([{"number": None}, {"number": 1}])
    )
    assert row_digest(table([{"text": ""}, {"text": "x"}])) != row_digest(
        table([{"text": None}, {"text": "x"}])
    )


def test_the_digest_never_changes_between_versions() -> None:
    """A result that was written years ago must still verify: this text may only ever be extended, never altered."""
    rows = table(
        [{"text": "a", "number": 1, "real": 0.5, "flag": True, "reals": [0.5], "tags": [("k", "v")]}, {}]
    )
    assert row_digest(rows) == EXPECTED


def test_a_column_without_a_digest_is_refused() -> None:
    with pytest.raises(ValueError, match="no digest"):
        row_digest(pa.table({"when": pa.array([1], pa.timestamp("us"))}))


def test_an_empty_table_has_a_digest() -> None:
    assert row_digest(SCHEMA.empty_table()) == hashlib.sha256(b"0").hexdigest()


EXPECTED = "3bb6089406716ec1ce82cf43d1131bb78ca71a57205fc9fa27545b330ab6bd8c"

"""Data files become examples: texts and arrays, splits, samples and slices."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from cases.data_files import array_set, floats, lines, parquet, text_set

from tasks.examples.data import read


def test_lines_become_examples_in_file_order(tmp_path):
    file = lines(tmp_path, {"text": "one", "label": 1}, {"text": "two", "label": "spam"}, {"text": "three"})
    members = read(text_set(file)).members
    assert [(e.number, e.text, e.label) for e in members] == [
        (0, "one", 1),
        (1, "two", "spam"),
        (2, "three", None),
    ]
    assert [str(e.place) for e in members] == ["line 1", "line 2", "line 3"]


def test_only_the_rows_of_the_split_are_read_and_counted_from_zero(tmp_path):
    file = lines(
        tmp_path,
        {"text": "a", "split": "test"},
        {"text": "b", "split": "calibration"},
        {"text": "c", "split": "test"},
    )
    members = read(text_set(file, split="test")).members
    assert [(e.number, e.text, e.place.line) for e in members] == [(0, "a", 1), (1, "c", 3)]


def test_samples_takes_the_first_of_the_split(tmp_path):
    file = lines(tmp_path, *({"text": f"t{i}", "split": "ab"[i % 2]} for i in range(10)))
    members = read(text_set(file, split="b", samples=3)).members
    assert [e.text for e in members] == ["t1", "t3", "t5"]


def test_nothing_is_read_beyond_the_samples_asked_for(tmp_path):
    file = lines(tmp_path, {"text": "a"}, {"text": "b"}, "this line is broken")
    assert [e.text for e in read(text_set(file, samples=2)).members] == ["a", "b"]


def test_more_samples_than_there_are_gives_all(tmp_path):
    assert len(read(text_set(lines(tmp_path, {"text": "a"}), samples=5)).members) == 1


def test_blank_lines_are_no_examples_but_count_as_lines(tmp_path):
    file = lines(tmp_path, {"text": "a"}, "", "   ", {"text": "b"})
    assert [e.place.line for e in read(text_set(file)).members] == [1, 4]


def test_a_last_line_without_a_newline_is_read(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text('{"text": "a"}\n{"text": "b"}')
    assert [e.text for e in read(text_set(file)).members] == ["a", "b"]


def test_windows_line_ends_and_characters_of_other_scripts_are_read(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_bytes('{"text": "größer"}\r\n{"text": "日本 😀"}\r\n'.encode())
    assert [e.text for e in read(text_set(file)).members] == ["größer", "日本 😀"]


def test_escaped_line_separators_inside_a_text_do_not_end_its_line(tmp_path):
    file = lines(tmp_path, {"text": "a\u2028b\nc\x0bd"})
    assert [e.text for e in read(text_set(file)).members] == ["a\u2028b\nc\x0bd"]


def test_slice_values_of_every_plain_type_become_text(tmp_path):
    file = lines(
        tmp_path,
        {"text": "a", "s": "x"},
        {"text": "a", "s": 3},
        {"text": "a", "s": True},
        {"text": "a", "s": 0.5},
    )
    assert [e.slices for e in read(text_set(file, slices=("s",))).members] == [
        {"s": "x"},
        {"s": "3"},
        {"s": "true"},
        {"s": "0.5"},
    ]


def test_the_label_may_itself_be_a_slice(tmp_path):
    file = lines(tmp_path, {"text": "a", "label": 2})
    assert read(text_set(file, slices=("label",))).members[0].slices == {"label": "2"}


def test_text_from_parquet_equals_text_from_lines(tmp_path):
    values = [{"text": f"t{i}", "split": "ab"[i % 2], "label": i, "topic": "xy"[i % 2]} for i in range(200)]
    table = parquet(tmp_path, pa.Table.from_pylist(values))
    of_lines = read(text_set(lines(tmp_path, *values), split="b", slices=("topic",))).members
    of_table = read(text_set(table, split="b", slices=("topic",))).members
    assert [(e.number, e.text, e.label, e.slices) for e in of_table] == [
        (e.number, e.text, e.label, e.slices) for e in of_lines
    ]
    assert [e.place.row for e in of_table[:2]] == [2, 4]


def test_strings_of_a_pandas_category_are_read(tmp_path):
    table = pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode()})
    assert [e.text for e in read(text_set(parquet(tmp_path, table))).members] == ["a", "b", "a"]


def test_arrays_have_the_shape_of_the_data_set(tmp_path):
    file = parquet(tmp_path, pa.table({"inputs": floats([1, 2, 3, 4], [5, 6, 7, 8]), "label": [0, 1]}))
    members = read(array_set(file, shape=(1, 2, 2))).members
    assert [e.inputs.tolist() for e in members if e.inputs is not None] == [
        [[[1, 2], [3, 4]]],
        [[[5, 6], [7, 8]]],
    ]
    assert all(e.inputs is not None and e.inputs.dtype == np.float32 for e in members)


def test_arrays_without_a_shape_are_flat(tmp_path):
    file = parquet(tmp_path, pa.table({"inputs": floats([1, 2, 3])}))
    inputs = read(array_set(file)).members[0].inputs
    assert inputs is not None
    assert inputs.shape == (3,)


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 2), pa.list_(pa.float16())],
)
def test_every_list_of_floats_is_read(tmp_path, kind):
    values = np.array([[1.5, 2.5], [3.5, 4.5]], np.float16)
    column = pa.array([list(v) for v in values], kind)
    members = read(array_set(parquet(tmp_path, pa.table({"inputs": column})))).members
    assert [e.inputs.tolist() for e in members if e.inputs is not None] == values.tolist()


def test_rows_of_a_sliced_parquet_file_keep_their_own_numbers(tmp_path):
    column = floats(*([float(i), float(-i)] for i in range(500)))
    file = parquet(tmp_path, pa.table({"inputs": column.slice(100, 300)}))
    members = read(array_set(file)).members
    assert [e.inputs.tolist() for e in members if e.inputs is not None] == [[i, -i] for i in range(100, 400)]


def test_columns_that_nobody_asked_for_are_not_looked_at(tmp_path):
    nested = pa.array([{"deep": [b"x"]}], pa.struct([("deep", pa.list_(pa.binary()))]))
    file = parquet(tmp_path, pa.table({"text": ["a"], "other": nested}))
    assert read(text_set(file)).members[0].text == "a"

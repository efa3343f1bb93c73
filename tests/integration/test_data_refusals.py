"""Data files that are broken, hostile or not what was asked for are refused with file, line and reason."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pytest
from cases.data_files import array_set, floats, lines, parquet, text_set

from tasks.contract import BadInput
from tasks.examples import data, rows
from tasks.examples.data import read


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "not JSON"),
        ("[1]", "holds a list"),
        ('"text"', "holds a str"),
        ('{"text": NaN}', "NaN is no JSON number"),
        ('{"text": "a", "text": "b"}', "'text' stands in it twice"),
        ('{"text": ' + "[" * 100_000 + "}", "nested too deeply"),
        ('{"text": "a", "label": ' + "9" * 5000 + "}", "digits"),
        ('{"text": "\\ud800"}', "half a surrogate pair"),
        ('{"text": 7}', "text is 7"),
        ('{"text": null}', "text is None"),
        ('{"txt": "a"}', "'text' is missing"),
        ('{"text": "a", "label": ["x"]}', "label is ['x']"),
        ('{"text": "a", "label": true}', "label is True"),
        ('{"text": "a", "label": [1, null]}', "label is [1, None]"),
    ],
)
def test_a_broken_line_is_refused_with_file_and_line(tmp_path, line, why):
    file = lines(tmp_path, {"text": "good"}, line)
    with pytest.raises(BadInput) as caught:
        read(text_set(file))
    assert why in str(caught.value)
    assert caught.value.file == str(file)
    assert caught.value.line == 2


def test_a_line_that_is_not_utf8_is_refused(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(BadInput, match="not UTF-8 at byte 10") as caught:
        read(text_set(file))
    assert caught.value.line == 2


def test_an_overlong_line_is_refused_without_reading_it_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 100)
    file = lines(tmp_path, {"text": "a"}, {"text": "b" * 200})
    with pytest.raises(BadInput, match="longer than 100 bytes") as caught:
        read(text_set(file))
    assert caught.value.line == 2


def test_a_repeated_key_among_very_many_is_found_at_once(tmp_path):
    line = "{" + ",".join(f'"{number}":0' for number in range(100_000)) + ',"99999":0}'
    began = time.process_time()
    with pytest.raises(BadInput, match="'99999' stands in it twice"):
        read(text_set(lines(tmp_path, line)))
    assert time.process_time() - began < 20


@pytest.mark.parametrize("value", [None, [1], {"a": 1}])
def test_a_slice_value_that_names_no_group_is_refused(tmp_path, value):
    file = lines(tmp_path, {"text": "a", "topic": value})
    with pytest.raises(BadInput, match="topic is"):
        read(text_set(file, slices=("topic",)))


def test_a_missing_slice_column_is_refused_by_name(tmp_path):
    file = lines(tmp_path, {"text": "a", "topic": "x"}, {"text": "a"})
    with pytest.raises(BadInput, match="column 'topic' is missing") as caught:
        read(text_set(file, slices=("topic",)))
    assert caught.value.line == 2


def test_a_slice_value_as_long_as_a_text_is_refused(tmp_path):
    file = lines(tmp_path, {"text": "a", "topic": "x" * 201})
    with pytest.raises(BadInput, match="201 characters"):
        read(text_set(file, slices=("topic",)))


def test_an_unknown_split_lists_the_known_ones(tmp_path):
    file = lines(tmp_path, {"text": "a", "split": "test"}, {"text": "a", "split": "dev"})
    with pytest.raises(BadInput, match="its splits are 'dev', 'test'") as caught:
        read(text_set(file, split="train"))
    assert caught.value.file == str(file)


def test_the_split_all_is_no_wildcard_where_there_are_splits(tmp_path):
    file = lines(tmp_path, {"text": "a", "split": "test"})
    with pytest.raises(BadInput, match="no split 'all'"):
        read(text_set(file))


def test_many_splits_are_not_all_listed(tmp_path):
    file = lines(tmp_path, *({"text": "a", "split": f"s{i:03}"} for i in range(30)))
    with pytest.raises(BadInput, match="and 10 more"):
        read(text_set(file, split="train"))


def test_a_file_without_splits_has_only_the_split_all(tmp_path):
    with pytest.raises(BadInput, match="no column split"):
        read(text_set(lines(tmp_path, {"text": "a"}), split="test"))


@pytest.mark.parametrize("order", [0, 1])
def test_a_split_column_in_some_rows_only_is_refused(tmp_path, order):
    values = [{"text": "a", "split": "all"}, {"text": "b"}]
    file = lines(tmp_path, values[order], values[1 - order])
    with pytest.raises(BadInput, match="in some rows only") as caught:
        read(text_set(file))
    assert caught.value.line == 2


def test_a_split_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(BadInput, match="split is 1"):
        read(text_set(lines(tmp_path, {"text": "a", "split": 1})))


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(BadInput, match="has no rows"):
        read(text_set(lines(tmp_path)))


def test_an_empty_table_is_refused(tmp_path):
    with pytest.raises(BadInput, match="has no rows"):
        read(array_set(parquet(tmp_path, pa.table({"inputs": floats()}))))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(BadInput, match="No such file"):
        read(text_set(tmp_path / "none.jsonl"))


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(BadInput, match="directory"):
        read(text_set(tmp_path))


def test_no_samples_are_refused(tmp_path):
    with pytest.raises(BadInput, match="samples is 0"):
        read(text_set(lines(tmp_path, {"text": "a"}), samples=0))


@pytest.mark.parametrize(("limit", "value"), [("MAX_EXAMPLES", 2), ("MAX_TOTAL_BYTES", 9)])
def test_more_than_fits_in_memory_asks_for_samples(tmp_path, monkeypatch, limit, value):
    monkeypatch.setattr(data, limit, value)
    file = lines(tmp_path, {"text": "a"}, {"text": "b"}, {"text": "c"})
    with pytest.raises(BadInput, match="Set samples") as caught:
        read(text_set(file))
    assert caught.value.line == 3
    assert len(read(text_set(file, samples=2)).members) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, None])
def test_numbers_that_are_not_finite_are_refused_with_their_row(tmp_path, value):
    kind = pa.list_(pa.float64())
    file = parquet(tmp_path, pa.table({"inputs": floats([1.0, 2.0], [1.0, value], kind=kind)}))
    with pytest.raises(BadInput, match=r"inputs\[1\].*row 2") as caught:
        read(array_set(file))
    assert caught.value.file == str(file)


def test_a_row_of_another_length_is_refused(tmp_path):
    file = parquet(tmp_path, pa.table({"inputs": floats([1, 2, 3, 4], [1, 2, 3])}))
    with pytest.raises(BadInput, match=r"has 3 values, but shape \[2, 2\] has 4 in row 2"):
        read(array_set(file, shape=(2, 2)))


def test_a_missing_array_is_refused(tmp_path):
    file = parquet(tmp_path, pa.table({"inputs": floats([1, 2], None)}))
    with pytest.raises(BadInput, match="inputs is NoneType"):
        read(array_set(file))


def test_text_given_as_arrays_is_refused_and_the_reverse(tmp_path):
    with pytest.raises(BadInput, match="'inputs' is missing"):
        read(array_set(lines(tmp_path, {"text": "a"})))
    with pytest.raises(BadInput, match="'text' is missing in row 1"):
        read(text_set(parquet(tmp_path, pa.table({"inputs": floats([1.0])}))))


def test_lists_in_json_lines_are_no_arrays(tmp_path):
    with pytest.raises(BadInput, match="Use Parquet"):
        read(array_set(lines(tmp_path, {"inputs": [1.0]})))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1, 2]], pa.list_(pa.int64())),
        pa.array([[[1.0]]], pa.list_(pa.list_(pa.float32()))),
        pa.array([b"x"], pa.binary()),
        pa.array([{"a": 1.0}]),
    ],
)
def test_a_column_of_another_type_is_refused_by_name(tmp_path, column):
    with pytest.raises(BadInput, match="column 'inputs' has the type"):
        read(array_set(parquet(tmp_path, pa.table({"inputs": column}))))


def test_a_column_that_stands_twice_is_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pytest.raises(BadInput, match="'text' stands in it twice"):
        read(text_set(parquet(tmp_path, table)))


@pytest.mark.parametrize("neighbours", range(6))
def test_extension_types_are_refused_before_their_code_could_run(tmp_path, neighbours):
    calls: list[bytes] = []

    class Trap(pa.ExtensionType):
        def __init__(self) -> None:
            super().__init__(pa.string(), "prunefleet.test.trap")

        def __arrow_ext_serialize__(self) -> bytes:
            return b"payload"

        @classmethod
        def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> Trap:
            calls.append(serialized)
            return cls()

    trap = Trap()
    column = pa.ExtensionArray.from_storage(trap, pa.array(["x"]))
    pa.register_extension_type(trap)
    try:
        file = parquet(tmp_path, pa.table({"text": ["a"], "x" * neighbours + "y": ["a"], "other": column}))
        calls.clear()
        with pytest.raises(BadInput, match="extension type"):
            read(text_set(file))
    finally:
        pa.unregister_extension_type("prunefleet.test.trap")
    assert calls == []


@pytest.mark.parametrize("damage", ["cut", "noise", "footer"])
def test_a_damaged_parquet_file_is_refused(tmp_path, damage):
    file = parquet(tmp_path, pa.table({"text": [f"text {i}" for i in range(1000)]}))
    content = bytearray(file.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "noise":
        content[4:400] = bytes(range(256)) + bytes(140)
    else:
        footer = int.from_bytes(content[-8:-4], "little")
        content[-8 - footer : -8 - footer // 2] = bytes(footer - footer // 2)
    file.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read(text_set(file))
    assert caught.value.file == str(file)


def test_a_parquet_value_longer_than_a_line_may_be_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 100)
    with pytest.raises(BadInput, match="too large"):
        read(text_set(parquet(tmp_path, pa.table({"text": ["a", "b" * 101]}))))
    with pytest.raises(BadInput, match="too large"):
        read(array_set(parquet(tmp_path, pa.table({"inputs": floats([1.0] * 26)}))))


def test_a_million_columns_are_refused_by_count(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MAX_COLUMNS", 3)
    with pytest.raises(BadInput, match="more than 3 columns"):
        read(text_set(parquet(tmp_path, pa.table({name: ["a"] for name in "abcd"}))))


@pytest.mark.parametrize("seed", range(40))
def test_a_parquet_file_with_random_damage_is_read_or_refused_and_nothing_else(tmp_path, seed):
    draw = np.random.default_rng(seed)
    file = parquet(tmp_path, pa.table({"inputs": floats([1.0, 2.0], [3.0, 4.0]), "split": ["a", "b"]}))
    content = bytearray(file.read_bytes())
    for position in draw.integers(4, len(content), size=3):
        content[position] = draw.integers(0, 256)
    file.write_bytes(content)
    try:
        members = read(array_set(file, split="a")).members
    except BadInput:
        return
    assert members

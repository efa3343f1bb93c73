"""Effects. Reads the rows of a JSON-lines or Parquet file of a stranger, one by one, each with its place in the file."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.contract import BadInput
from tasks.files.strictjson import NotStrict, decoded

MAX_ROW_BYTES = 16 * 2**20
"""Of one line, or of one Parquet value: far above any calibration text or image."""
MAX_COLUMNS = 10_000
MAX_FOOTER_BYTES = 64 * 2**20
_PARQUET_MAGIC = b"PAR1"
_ROWS_PER_READ = 64  # times MAX_ROW_BYTES: what a hostile file can make us hold

_EXTENSION = b"ARROW:extension:name"
_EXTENSION_SPELLINGS = tuple(
    base64.b64encode(bytes(shift) + _EXTENSION)[-(-shift * 8 // 6) : (shift + len(_EXTENSION)) * 8 // 6]
    for shift in range(3)
)

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a row stands, so that an error can name it: a line of text, or a row of Parquet; both count from 1."""

    file: str
    line: int | None = None
    row: int | None = None

    def refusal(self, what: str, *, why: str, do: str) -> BadInput:
        """The error that names this place."""
        at = "" if self.row is None else f" in row {self.row}"
        return BadInput(what, why=f"{why}{at}", do=do, file=self.file, line=self.line)

    def __str__(self) -> str:
        return f"row {self.row}" if self.line is None else f"line {self.line}"


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[Place, Values]]:
    """Each row's values of those of the columns that the file has; Parquet lists come as numpy arrays.

    Which of the two formats it is follows from the first bytes, not from the name.
    """
    try:
        with path.open("rb") as stream:
            is_parquet = stream.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    yield from (_parquet_rows if is_parquet else _json_rows)(path, columns)


def _unreadable(path: Path, why: str, do: str = "Point the data set's path at a readable file.") -> BadInput:
    return BadInput("the data set cannot be read", why=why, do=do, file=str(path))


def _json_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[Place, Values]]:
    with path.open("rb") as stream:
        for number in range(1, 2**62):
            line = stream.readline(MAX_ROW_BYTES + 1)
            if not line:
                return
            place = Place(file=str(path), line=number)
            if len(line) > MAX_ROW_BYTES:
                raise _bad_line(place, f"it is longer than {MAX_ROW_BYTES} bytes")
            if line.strip():
                values = _parsed(line, place)
                wanted = {name: values[name] for name in columns if name in values}
                _refuse_half_characters(wanted, place)
                yield place, wanted


def _refuse_half_characters(values: Values, place: Place) -> None:
    for name, text in ((name, value) for name, value in values.items() if isinstance(value, str)):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise _bad_line(
                place, f"{name} holds half a surrogate pair at character {error.start}"
            ) from error


def _bad_line(place: Place, why: str) -> BadInput:
    return place.refusal(
        "a line of the data set cannot be read",
        why=why,
        do="Write one JSON object a line, in UTF-8, or use Parquet.",
    )


def _parsed(line: bytes, place: Place) -> dict[str, Any]:
    try:
        values = decoded(line)
    except NotStrict as error:
        raise _bad_line(place, str(error)) from error
    if not isinstance(values, dict):
        raise _bad_line(place, f"it holds a {type(values).__name__}, not an object")
    return values


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[Place, Values]]:
    row = 0
    try:
        _refuse_extensions(path)
        with pq.ParquetFile(path, arrow_extensions_enabled=False) as file:
            present = _present(path, file.schema_arrow, columns)
            for batch in file.iter_batches(_ROWS_PER_READ, columns=present, use_threads=False):
                batch.validate(full=True)
                for index in range(batch.num_rows):
                    row += 1
                    place = Place(file=str(path), row=row)
                    yield place, {name: _value(batch.column(name)[index], place) for name in present}
    except (pa.ArrowException, OSError, ValueError) as error:
        why = f"{type(error).__name__}: {str(error)[:300]}"
        raise _unreadable(path, why, "Write the Parquet file again.") from error


def _refuse_extensions(path: Path) -> None:
    """Before pyarrow sees the file: opening it would run what a registered extension type does with its metadata.

    The Arrow schema stands in the footer as base64, so its words have one of three spellings there.
    """
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 8))
        length = int.from_bytes(stream.read(4), "little")
        if not 0 < length <= min(size - 8, MAX_FOOTER_BYTES):
            raise _unreadable(path, f"its footer has {length} bytes", "Write the Parquet file again.")
        stream.seek(size - 8 - length)
        footer = stream.read(length)
    if any(spelling in footer for spelling in _EXTENSION_SPELLINGS):
        raise _unreadable(
            path, "it has columns of an Arrow extension type", "Write plain lists, numbers and strings."
        )


def _present(path: Path, schema: pa.Schema, columns: Sequence[str]) -> list[str]:
    names = schema.names
    if len(names) > MAX_COLUMNS:
        raise _unreadable(path, f"it has more than {MAX_COLUMNS} columns", "Leave out what is not needed.")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise _unreadable(path, f"the column {twice[:100]!r} stands in it twice", "Rename one of them.")
    present = [name for name in columns if name in names]
    for name in present:
        kind = schema.field(name).type
        if not _is_plain(kind):
            raise _unreadable(
                path,
                f"the column {name!r} has the type {kind}",
                "Use strings, integers, floats, booleans, or lists of floats.",
            )
    return present


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_scalar(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return bool(pa.types.is_floating(kind.value_type))
    return _is_scalar(kind)


def _is_scalar(kind: pa.DataType) -> bool:
    tests = (
        pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_integer,
        pa.types.is_floating, pa.types.is_boolean, pa.types.is_null,
    )  # fmt: skip
    return any(test(kind) for test in tests)


def _value(scalar: pa.Scalar, place: Place) -> Any:
    if isinstance(scalar, pa.ListScalar) and scalar.is_valid:
        values = scalar.values
        if values.nbytes > MAX_ROW_BYTES:
            raise _too_large(place)
        return values.to_numpy(zero_copy_only=False)
    value = scalar.as_py()
    if isinstance(value, str) and len(value) > MAX_ROW_BYTES:
        raise _too_large(place)
    return value


def _too_large(place: Place) -> BadInput:
    return place.refusal(
        "a value of the data set is too large", why=f"it is longer than {MAX_ROW_BYTES} bytes", do="Cut it."
    )

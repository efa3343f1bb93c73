"""Pure. The digest of an Arrow table's rows, which two computations share if and only if they agree."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.compute as pc


def row_digest(table: pa.Table) -> str:
    """SHA-256 of the rows in their order: of columns by name, types, nulls and values, whatever the encoding.

    A column that is null throughout does not count, so that adding one to a schema changes no digest.
    """
    digest = hashlib.sha256(f"{len(table)}".encode())
    for name in sorted(table.schema.names):
        column = table[name].combine_chunks()
        if column.null_count < len(column):
            digest.update(f"\n{name}".encode())
            _feed(digest, column)
    return digest.hexdigest()


def _feed(digest: hashlib._Hash, array: pa.Array) -> None:
    digest.update(f"\n{array.type} {len(array)}\n".encode())
    digest.update(array.is_null().cast(pa.uint8()).to_numpy().tobytes())
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_map(kind):
        lengths = pc.fill_null(pc.list_value_length(array), 0)
        digest.update(lengths.to_numpy().tobytes())
        _feed(digest, array.flatten())
    elif pa.types.is_struct(kind):
        for part in array.flatten():
            _feed(digest, part)
    elif pa.types.is_string(kind):
        texts = pc.fill_null(array, "").cast(pa.binary())
        digest.update(pc.binary_length(texts).to_numpy().tobytes())
        digest.update(b"".join(texts.to_pylist()))
    elif pa.types.is_boolean(kind):
        digest.update(pc.fill_null(array, False).cast(pa.uint8()).to_numpy().tobytes())
    elif pa.types.is_primitive(kind):
        digest.update(pc.fill_null(array, 0).to_numpy().tobytes())
    else:
        raise ValueError(f"a column of type {kind} has no digest")

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
    kind = array.type
    label = str(kind) if pa.types.is_primitive(kind) or pa.types.is_string(kind) else f"nested {kind.id}"
    digest.update(f"\n{label} {len(array)}\n".encode())
    if array.null_count:
        digest.update(array.is_null().to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_map(kind):
        entry = pa.struct([kind.key_field.with_name("key"), kind.item_field.with_name("value")])
        _feed(digest, array.cast(pa.list_(entry)))
    elif pa.types.is_list(kind):
        digest.update(_values(pc.list_value_length(array), 0))
        _feed(digest, array.flatten())
    elif pa.types.is_struct(kind):
        for part in array.flatten():
            _feed(digest, part)
    elif pa.types.is_string(kind):
        texts = [(text or "").encode() for text in array.to_pylist()]
        digest.update(",".join(str(len(text)) for text in texts).encode())
        digest.update(b"".join(texts))
    elif pa.types.is_boolean(kind):
        digest.update(_values(array, False))
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        digest.update(_values(array, 0))
    else:
        raise ValueError(f"a column of type {kind} has no digest")


def _values(array: pa.Array, null: int) -> bytes:
    """The numbers in the machine's order of bytes (little-endian wherever this runs), nulls as `null`."""
    filled = pc.fill_null(array, null) if array.null_count else array
    raw: bytes = filled.to_numpy(zero_copy_only=False).tobytes()
    return raw

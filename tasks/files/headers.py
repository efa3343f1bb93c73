"""Effects. Reads what a file of weights says about itself, strictly, without its data.

Standard library only. Accepts nothing that the `safetensors` library rejects, and refuses more.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from tasks.contract import BadInput
from tasks.files.strictjson import parse_object

MAX_HEADER_BYTES = 25_000_000
MAX_TENSORS = 200_000
MAX_DIMENSIONS = 8
MAX_NAME = 512
MAX_ELEMENTS = 2**56
"""Times the 64 bits of the widest dtype this still fits in the 64-bit sizes of the safetensors library."""

DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""Every dtype of the format; which of them can be pruned is for `tasks.loading.weights` to say."""

EXPORT = "Export the model again with save_pretrained(safe_serialization=True)."
_FIELDS = frozenset({"dtype", "shape", "data_offsets"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One tensor of a file; `begin` and `end` are bytes from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    """One file of weights: where it is, how its data lies in it, and (safetensors) the bytes in front of the data."""

    path: Path
    entries: Mapping[str, TensorEntry]
    """By name, in the order in which the data lies in the file."""
    head: bytes
    bytes: int


def check_header(data: bytes, file_bytes: int, file: str) -> dict[str, TensorEntry]:
    """The tensors named by the beginning of a safetensors file, in data order.

    `data` begins at the file's first byte and holds at least the whole header. Stricter than the library: at most
    25 MB, 200,000 tensors, 8 dimensions; no repeated or unknown keys; printable names; `{` at byte 8.
    """
    length = header_length(data, file_bytes, file)
    if len(data) < 8 + length:
        raise ValueError(f"check_header needs {8 + length} bytes, not {len(data)}")
    if data[8:9] != b"{":
        refuse(file, "a header begins with '{' at byte 8, and this one does not")
    header = parse_object(
        data[8 : 8 + length], what="the safetensors header", file=file, max_bytes=MAX_HEADER_BYTES
    )
    _check_metadata(header.pop("__metadata__", {}), file)
    if len(header) > MAX_TENSORS:
        refuse(file, f"it names {len(header)} tensors, more than {MAX_TENSORS}")
    start = 8 + length
    entries = [_entry(name, fields, start, file) for name, fields in header.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    position = start
    for entry in entries:
        if entry.begin != position:
            word = "overlaps the tensor before it" if entry.begin < position else "leaves a hole before it"
            refuse(file, f"its data {word}: begins at byte {entry.begin} instead of {position}", entry.name)
        position = entry.end
    if position != file_bytes:
        word = "ends before its data does" if position > file_bytes else "has bytes after its last tensor"
        refuse(file, f"the file {word}: {file_bytes} bytes instead of {position}")
    return {entry.name: entry for entry in entries}


def header_length(beginning: bytes, file_bytes: int, file: str) -> int:
    """Bytes of the JSON header, from the first eight of the file; a few hundred more help to name a mistake."""
    if file_bytes == 0:
        refuse(file, "the file is empty", do="Download or export it again.")
    if beginning.startswith(b"version https://git-lfs"):
        refuse(file, "it is a Git-LFS pointer, not the weights it points to", do="Run `git lfs pull` there.")
    if beginning.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        refuse(
            file, "it is a web page, not weights", do="Download it again; the server answered with a page."
        )
    if file_bytes < 8:
        refuse(file, f"{file_bytes} bytes are too few for a header")
    length = int.from_bytes(beginning[:8], "little")
    if length > MAX_HEADER_BYTES:
        refuse(file, f"the header claims {length} bytes, more than {MAX_HEADER_BYTES}")
    if 8 + length > file_bytes:
        refuse(file, f"the header claims {length} bytes and the file has only {file_bytes}: it is cut short")
    return length


def read_header(path: Path) -> WeightFile:
    """Opens one weight file, never through a link, and checks its header."""
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        beginning = stream.read(512)
        length = header_length(beginning, size, path.name)
        head = (beginning + stream.read(max(0, 8 + length - len(beginning))))[: 8 + length]
    if len(head) < 8 + length:
        refuse(
            path.name, "it became shorter while it was read", do="Wait until it is written, then try again."
        )
    return WeightFile(path=path, entries=check_header(head, size, path.name), head=head, bytes=size)


def open_regular(path: Path) -> Any:
    """A file opened for reading in binary, unbuffered; refuses links, pipes, devices and directories."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        reason = "it is a symbolic link" if path.is_symlink() else (error.strerror or str(error))
        refuse(path.name, f"it cannot be opened: {reason}", do="Put a regular, readable file there.")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        refuse(path.name, "it is not a regular file", do="Put a regular file there.")
    return open(descriptor, "rb", buffering=0)


def _entry(name: str, fields: Any, start: int, file: str) -> TensorEntry:
    shown = name[:MAX_NAME]
    if not name or len(name) > MAX_NAME or not name.isprintable():
        refuse(file, f"a tensor's name is empty, unprintable or longer than {MAX_NAME}: {shown!r}")
    if not isinstance(fields, dict) or fields.keys() != _FIELDS:
        refuse(file, "it needs dtype, shape and data_offsets, and nothing else", shown)
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        refuse(file, f"its dtype {str(dtype)[:40]!r} is unknown to the format", shown)
    if not _whole_numbers(shape) or len(shape) > MAX_DIMENSIONS:
        refuse(file, f"its shape is not a list of at most {MAX_DIMENSIONS} whole numbers", shown)
    if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        refuse(file, "its data_offsets are not two whole numbers, begin before end", shown)
    elements = 1
    for size in shape:
        elements *= size
        if max(elements, size) > MAX_ELEMENTS:
            refuse(file, f"its shape {shape} has more elements than any file", shown)
    bits = elements * DTYPE_BITS[dtype]
    if bits != 8 * (offsets[1] - offsets[0]):
        why = f"{dtype} of shape {shape} takes {bits / 8:g} bytes and its data has {offsets[1] - offsets[0]}"
        refuse(file, why, shown)
    return TensorEntry(
        name=name, dtype=dtype, shape=tuple(shape), begin=start + offsets[0], end=start + offsets[1]
    )


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _check_metadata(metadata: Any, file: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        refuse(file, "its __metadata__ is not an object of texts")


def refuse(file: str, why: str, tensor: str = "", do: str = EXPORT) -> NoReturn:
    """Raises BadInput for weights that cannot be used."""
    raise BadInput("the weights cannot be read", why=why, do=do, file=file, tensor=tensor)

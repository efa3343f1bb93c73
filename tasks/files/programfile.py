"""Effects. Reads a program of torch.export as a file of weights: which tensor lies where, and what the graph says.

Standard library only; nothing is unpickled, and no weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

from tasks.files.archives import (
    CONSTANTS,
    GRAPH,
    LISTS,
    MAX_JSON_BYTES,
    WEIGHTS,
    Archive,
    bytes_of,
    read_archive,
    read_member,
    refuse,
)
from tasks.files.headers import (
    DTYPE_BITS,
    MAX_DIMENSIONS,
    MAX_NAME,
    MAX_TENSORS,
    TensorEntry,
    WeightFile,
    open_regular,
)
from tasks.files.program import Program, read_program
from tasks.files.strictjson import parse_object

_DTYPES: Mapping[int, str] = {
    1: "U8", 2: "I8", 3: "I16", 4: "I32", 5: "I64", 6: "F16", 7: "F32", 8: "F64", 10: "C64", 12: "BOOL", 13: "BF16",
    28: "U16", 29: "F8_E4M3", 30: "F8_E5M2", 31: "F8_E4M3FNUZ", 32: "F8_E5M2FNUZ", 33: "F8_E8M0", 34: "U32", 35: "U64",
}  # fmt: skip
"""torch.export's numbers, and what safetensors calls them."""
_STRIDED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One weight, buffer or constant of a program."""

    entry: TensorEntry
    """Where it lies; of weights that share their memory, the entry of the first."""
    is_parameter: bool


def read_program_file(path: Path) -> WeightFile:
    """The tensors of a program, each once, in the order in which they lie in it; its graph is checked too.

    Errors: BadInput.
    """
    with open_regular(path) as stream:
        archive = read_archive(stream, path.name)
        stored = _stored(stream, archive, path.name)
        _program(stream, archive, stored, path.name)
    entries = sorted(
        {one.entry.name: one.entry for one in stored.values()}.values(), key=lambda entry: entry.begin
    )
    begins = {entry.begin for entry in entries}
    tensors = [member.name for member in archive.members.values() if member.begin in begins]
    by_name = {entry.name: entry for entry in entries}
    return WeightFile(path=path, entries=by_name, head=b"", bytes=bytes_of(archive, tensors))


def open_program(path: Path) -> tuple[Program, Mapping[str, Stored]]:
    """The graph of a program, and its weights by their names in the module that was exported. Errors: BadInput."""
    with open_regular(path) as stream:
        archive = read_archive(stream, path.name)
        stored = _stored(stream, archive, path.name)
        return _program(stream, archive, stored, path.name), stored


def _program(stream: IO[bytes], archive: Archive, stored: Mapping[str, Stored], file: str) -> Program:
    program = read_program(_json(stream, archive, GRAPH, file), file)
    for name in program.weights.values():
        if name not in stored:
            refuse(file, "its graph uses it and it is not stored", name[:MAX_NAME])
    return program


def _stored(stream: IO[bytes], archive: Archive, file: str) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    first_at: dict[str, TensorEntry] = {}
    for folder, listing in zip((WEIGHTS, CONSTANTS), LISTS, strict=True):
        listed = _json(stream, archive, listing, file).get("config", {}) if listing in archive.members else {}
        if not isinstance(listed, dict) or len(listed) > MAX_TENSORS:
            refuse(file, f"{listing} does not list its tensors by name")
        for name, fields in listed.items():
            if not name or len(name) > MAX_NAME or not name.isprintable() or name in found:
                refuse(
                    file,
                    f"a tensor's name is empty, unprintable, too long or there twice: {name[:MAX_NAME]!r}",
                )
            entry = _entry(name, fields, folder, archive, file)
            first = first_at.setdefault(str(fields["path_name"]) + folder, entry)
            if (first.dtype, first.shape) != (entry.dtype, entry.shape):
                refuse(
                    file, f"it shares its memory with {first.name}, which has another shape or dtype", name
                )
            found[name] = Stored(entry=first, is_parameter=fields.get("is_param") is True)
    return found


def _entry(name: str, fields: Any, folder: str, archive: Archive, file: str) -> TensorEntry:
    match fields:
        case {
            "path_name": str(member),
            "use_pickle": False,
            "tensor_meta": {"dtype": int(dtype), "sizes": list(sizes), "strides": list(strides), **meta},
        }:
            shape, steps = _whole(sizes), _whole(strides)
        case {"use_pickle": True}:
            refuse(file, "it is pickled, and a pickle can run code; it is never opened", name)
        case _:
            refuse(file, "what is said of it is not what torch writes", name)
    if shape is None or steps is None or len(shape) > MAX_DIMENSIONS or len(shape) != len(steps):
        refuse(file, f"its shape is not a list of at most {MAX_DIMENSIONS} whole numbers", name)
    if dtype not in _DTYPES:
        refuse(file, f"its dtype has the number {dtype}, which is not known", name)
    if (
        meta.get("layout") != _STRIDED
        or meta.get("storage_offset") != {"as_int": 0}
        or not _is_dense(shape, steps)
    ):
        refuse(file, "it is a view of other memory", name, do="Make it contiguous() before the export.")
    place = archive.members.get(f"{folder}{member}")
    if place is None:
        refuse(file, f"its data {member[:MAX_NAME]!r} is not in the archive", name)
    bits = prod(shape) * DTYPE_BITS[_DTYPES[dtype]]
    if bits != 8 * (place.end - place.begin):
        refuse(
            file,
            f"{_DTYPES[dtype]} of shape {list(shape)} takes {bits // 8} bytes and its data has {place.end - place.begin}",
            name,
        )
    return TensorEntry(name=name, dtype=_DTYPES[dtype], shape=shape, begin=place.begin, end=place.end)


def _whole(numbers: list[Any]) -> tuple[int, ...] | None:
    values = [item.get("as_int") if isinstance(item, dict) else None for item in numbers]
    if not all(type(value) is int and 0 <= value < 2**48 for value in values):
        return None
    return tuple(values)  # type: ignore[arg-type]


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the last dimension moves fastest, without holes; the stride of a dimension of one place says nothing."""
    places = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != places:
            return 0 in shape
        places *= size
    return True


def _json(stream: IO[bytes], archive: Archive, member: str, file: str) -> dict[str, Any]:
    data = read_member(stream, archive.members[member], file)
    return parse_object(
        data,
        what=f"its {member}",
        file=file,
        max_bytes=MAX_JSON_BYTES,
        do="Export the program again.",
        may_be_infinite=True,
    )

"""Effects. The archive of a program of torch.export (`.pt2`): a zip of plain members, none of which is ever unpickled.

Standard library only. What torch.export.load would take as pickles, compiled code or scripts is refused or left out.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, NoReturn

from tasks.contract import BadInput

PROGRAM = "model.pt2"
GRAPH = "models/model.json"
WEIGHTS, CONSTANTS = "data/weights/", "data/constants/"
LISTS = (f"{WEIGHTS}model_weights_config.json", f"{CONSTANTS}model_constants_config.json")
EXAMPLES = "data/sample_inputs/"
"""Pickled; torch.export.load wants them to be there, and takes empty ones."""
MAX_MEMBERS = 250_000
MAX_DIRECTORY_BYTES = 64_000_000
MAX_JSON_BYTES = 100_000_000
_ALIGNMENT = 64
"""Data begins at a multiple of so many bytes, as torch writes it, so that it can be mapped."""
_PADDING = b"FB"
_LOCAL_HEADER = 30
_END, _LOCATOR, _END_OF_LARGE = 22, 20, 56
"""Bytes of what stands behind a zip's directory, from the last to the first; the latter two only where it is large."""
_LARGE = 2**31
_BLOCK = 1 << 20
_DOCUMENTS = frozenset(
    {
        GRAPH,
        *LISTS,
        "archive_format",
        "archive_version",
        "byteorder",
        ".data/version",
        ".data/serialization_id",
    }
)
_MEANT: Mapping[str, tuple[bytes, ...]] = {"archive_format": (b"pt2",), "byteorder": (b"little",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of an archive; its data lies from `begin` to `end`, in bytes from the start of the archive."""

    name: str
    """Without the folder that holds them all."""
    begin: int
    end: int
    crc: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """The members of an archive in the order in which they lie in it."""

    folder: str
    members: Mapping[str, Member]


def read_archive(stream: IO[bytes], file: str) -> Archive:
    """The members of a `.pt2`, checked: stored plainly, each once, none over another, nothing that is code.

    Errors: BadInput.
    """
    size = os.fstat(stream.fileno()).st_size
    _check_directory(stream, size, file)
    try:
        with zipfile.ZipFile(stream) as opened:
            listed = opened.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError) as error:
        refuse(file, f"it is no zip archive: {error}")
    folders = {info.filename.partition("/")[0] for info in listed}
    if len(folders) != 1:
        refuse(file, f"its members lie in {len(folders)} folders, and those of a program in one")
    folder = folders.pop()
    members: dict[str, Member] = {}
    position = 0
    for info in sorted(listed, key=lambda info: info.header_offset):
        name = info.filename.removeprefix(f"{folder}/")
        _check_name(name, members, file)
        begin = _begin_of_data(stream, info, file)
        end = begin + info.file_size
        is_plain = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
        if not is_plain or info.compress_size != info.file_size:
            refuse(file, f"its member {name} is compressed or encrypted, and a program's are stored plainly")
        if info.header_offset < position or end > size:
            refuse(file, f"its member {name} lies over another, or ends behind the file")
        position = end
        members[name] = Member(name=name, begin=begin, end=end, crc=info.CRC)
    for name, meant in _MEANT.items():
        if name not in members or (found := read_member(stream, members[name], file, 100)) not in meant:
            shown = repr(found)[:40] if name in members else "missing"
            refuse(file, f"its {name} is {shown}, and {meant[0].decode()} is what can be read")
    if GRAPH not in members:
        models = sorted(name for name in members if name.startswith("models/"))
        refuse(file, f"it holds {len(models)} programs, none of them called model ({GRAPH})")
    return Archive(folder=folder, members=members)


def read_member(stream: IO[bytes], member: Member, file: str, limit: int = MAX_JSON_BYTES) -> bytes:
    """A member's bytes, which must have their checksum. Errors: BadInput."""
    if member.end - member.begin > limit:
        refuse(file, f"its member {member.name} has {member.end - member.begin} bytes, more than {limit}")
    data = os.pread(stream.fileno(), member.end - member.begin, member.begin)
    if zlib.crc32(data) != member.crc:
        refuse(file, f"its member {member.name} does not have its checksum; copy the file again")
    return data


def write_archive(
    source: IO[bytes],
    target: IO[bytes],
    archive: Archive,
    tensors: Collection[str],
    change: Callable[[str], Iterable[memoryview] | None],
) -> tuple[str, ...]:
    """Writes an archive again: of `tensors`, `change(member)` gives the bytes in place of a member's own, or None.

    Only tensors and documents are written, and empty examples, which torch's loader wants to be there. Returns the
    members that are left out.
    """
    left_out = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as writer:
        for member in archive.members.values():
            is_example = member.name.startswith(EXAMPLES)
            is_kept = _is_kept(member, tensors)
            size = member.end - member.begin if is_kept else 0
            if not is_kept and member.end > member.begin:
                left_out.append(member.name)
            if not (is_kept or is_example):
                continue
            info = zipfile.ZipInfo(
                f"{archive.folder}/{member.name}"
            )  # of 1980: equal programs are equal files
            info.extra = _padding(target.tell(), info.filename, size)
            changed = change(member.name) if member.name in tensors else None
            with writer.open(info, "w", force_zip64=size >= _LARGE) as out:
                written = sum(out.write(block) for block in changed or _blocks(source, member, size))
            if written != size:
                raise ValueError(f"{member.name} takes {size} bytes and was given {written}")
    return tuple(left_out)


def bytes_of(archive: Archive, tensors: Collection[str]) -> int:
    """Of the tensors and documents: what is left of an archive when it is written again, but for the zip's own lists."""
    return sum(member.end - member.begin for member in archive.members.values() if _is_kept(member, tensors))


def refuse(file: str, why: str, tensor: str = "", do: str = "") -> NoReturn:
    """Raises BadInput for a program that cannot be used."""
    raise BadInput(
        "the program cannot be read",
        why=why,
        do=do or "Export the module in eval mode again: torch.export.save(torch.export.export(…), path).",
        file=file,
        tensor=tensor,
    )


def _is_kept(member: Member, tensors: Collection[str]) -> bool:
    return member.name in tensors or member.name in _DOCUMENTS


def _check_name(name: str, known: Mapping[str, Any], file: str) -> None:
    if not name.isascii() or not name.isprintable() or len(name) > 1000 or "\\" in name:
        refuse(file, f"a member's name is unprintable or too long: {name[:80]!r}")
    if name in known:
        refuse(file, f"its member {name} stands in it twice")
    is_known = name in _DOCUMENTS or name.startswith((WEIGHTS, CONSTANTS, EXAMPLES, ".data/"))
    if not is_known or ".." in name:
        refuse(file, f"its member {name!r} is no part of a plain program; compiled code is never used")


def _check_directory(stream: IO[bytes], size: int, file: str) -> None:
    """Before zipfile makes an object of each entry: what it will take for the directory is small, and has few of them."""
    behind = os.pread(stream.fileno(), _END, max(size - _END, 0))
    if behind[:4] != b"PK\x05\x06" or behind[-2:] != b"\0\0":
        refuse(file, "it is no zip archive, or one with a comment: it does not end as torch lets it")
    length, end = int.from_bytes(behind[12:16], "little"), size - _END
    large = os.pread(stream.fileno(), _END_OF_LARGE + _LOCATOR, max(end - _LOCATOR - _END_OF_LARGE, 0))
    if large[-_LOCATOR:][:4] == b"PK\x06\x07":
        end -= _LOCATOR + _END_OF_LARGE
        if large[:4] != b"PK\x06\x06" or int.from_bytes(large[-12:-4], "little") != end:
            refuse(file, "its directory is not where the end of the archive says")
        length = int.from_bytes(large[40:48], "little")
    if length > min(end, MAX_DIRECTORY_BYTES):
        refuse(file, f"its directory has {length} bytes, more than {min(end, MAX_DIRECTORY_BYTES)}")
    entries = os.pread(stream.fileno(), length, end - length).count(b"PK\x01\x02")
    if entries > MAX_MEMBERS:
        refuse(file, f"it has {entries} members, more than {MAX_MEMBERS}")


def _begin_of_data(stream: IO[bytes], info: zipfile.ZipInfo, file: str) -> int:
    """Behind the local header, whose name and padding may differ in length from what the directory says."""
    header = os.pread(stream.fileno(), _LOCAL_HEADER, max(info.header_offset, 0))
    if info.header_offset < 0 or len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        refuse(file, f"its member {info.filename!r} does not begin where the archive says")
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    begin = info.header_offset + _LOCAL_HEADER
    if os.pread(stream.fileno(), name, begin) != info.orig_filename.encode():
        refuse(file, f"its member {info.filename!r} has another name where it lies")
    return begin + name + extra


def _padding(position: int, name: str, size: int) -> bytes:
    zip64 = 20 if size >= _LARGE else 0
    unpadded = position + _LOCAL_HEADER + len(name.encode()) + zip64 + 4
    spare = -unpadded % _ALIGNMENT
    return _PADDING + spare.to_bytes(2, "little") + b"Z" * spare


def _blocks(source: IO[bytes], member: Member, size: int) -> Iterator[memoryview]:
    for start in range(member.begin, member.begin + size, _BLOCK):
        data = os.pread(source.fileno(), min(_BLOCK, member.begin + size - start), start)
        if not data:
            refuse(member.name, "the file became shorter while it was read")
        yield memoryview(data)

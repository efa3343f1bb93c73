"""Effects. Reads and writes checkpoints a tensor at a time, so that memory holds one tensor and not the model."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.contract import BadInput, Finding, printable
from tasks.files.archives import PROGRAM, read_archive, write_archive
from tasks.files.headers import TensorEntry, WeightFile, open_regular
from tasks.files.layouts import INDEX, read_layout
from tasks.files.modules import MODULE_FILES, MODULES, is_module

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "U16": torch.uint16,
    "I32": torch.int32, "U32": torch.uint32, "I64": torch.int64, "U64": torch.uint64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
"""The dtypes that are read; the 8-bit and smaller floats mean a quantized model and are refused by name."""
_HARMLESS = frozenset({".json", ".txt", ".model", ".jinja", ".tiktoken", ".vocab", ".bpe", ".spm", ".md"})
_HARMLESS_NAMES = frozenset({"LICENSE", "NOTICE"})
_MAX_COMPANION_BYTES = 200_000_000
_BLOCK = 1 << 20
_CHUNK = 1 << 16
"""Elements looked at together when counting what is not finite: they stay in a processor's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The weights of one model directory, headers read and checked, data not yet."""

    directory: Path
    files: tuple[WeightFile, ...]
    index: Path | None
    findings: tuple[Finding, ...]
    _home: Mapping[str, WeightFile] = field(repr=False)
    _maps: dict[Path, mmap.mmap] = field(repr=False, default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor, file by file, in data order."""
        return tuple(self._home)

    @property
    def bytes(self) -> int:
        """Of all weight files on disk."""
        return sum(file.bytes for file in self.files)

    def entry(self, name: str) -> TensorEntry:
        """Where a tensor lies, and its dtype and shape."""
        return self._home[name].entries[name]

    def file(self, name: str) -> WeightFile:
        """The file that holds a tensor."""
        return self._home[name]

    def read(self, name: str) -> torch.Tensor:
        """A tensor copied into memory of its own, so that its pages can be given back after it."""
        entry = self.entry(name)
        dtype = self.dtype(name)
        if entry.elements == 0:
            return torch.empty(entry.shape, dtype=dtype)
        buffer = np.empty(entry.end - entry.begin, dtype=np.uint8)
        with open_regular(self.file(name).path) as stream:
            read_exactly(stream.fileno(), buffer.data, entry.begin, self.file(name).path.name)
        return torch.from_numpy(buffer).view(dtype).reshape(entry.shape)

    def mapped(self, name: str) -> torch.Tensor:
        """A tensor over the file's own pages, shared by every process that maps them.

        Writing to it is allowed: the page becomes private to this process, the file never changes.
        """
        entry = self.entry(name)
        dtype = self.dtype(name)
        if entry.elements == 0:
            return torch.empty(entry.shape, dtype=dtype)
        if entry.begin % dtype.itemsize:
            return self.read(name)
        pages = self._pages(self.file(name).path)
        return torch.frombuffer(pages, dtype=dtype, count=entry.elements, offset=entry.begin).reshape(
            entry.shape
        )

    def release(self) -> None:
        """Gives back the memory of all mapped pages; they are read again when looked at, without what was written."""
        for pages in self._maps.values():
            pages.madvise(mmap.MADV_DONTNEED)

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's dtype; raises BadInput, naming the tensor, for one that cannot be pruned or run."""
        entry = self.entry(name)
        if entry.dtype not in DTYPES:
            raise BadInput(
                "a tensor cannot be used",
                why=f"its dtype {entry.dtype} belongs to a quantized or unusual model",
                do="Use the original model in bfloat16, float16 or float32.",
                file=self.file(name).path.name,
                tensor=name,
            )
        return DTYPES[entry.dtype]

    def _pages(self, path: Path) -> mmap.mmap:
        if path not in self._maps:
            with open_regular(path) as stream:
                self._maps[path] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._maps[path]


def open_checkpoint(directory: Path) -> Checkpoint:
    """Reads and checks every header of a model directory; no tensor is touched."""
    layout = read_layout(directory)
    home = {name: file for file in layout.files for name in file.entries}
    return Checkpoint(
        directory=directory, files=layout.files, index=layout.index, findings=layout.findings, _home=home
    )


def write_like(
    checkpoint: Checkpoint, output: Path, change: Callable[[str], Iterable[memoryview] | None]
) -> tuple[Finding, ...]:
    """Writes the model again with some tensors changed: same files, headers, order, and all else as it was.

    `change(name)` gives the bytes to write in place of a stored tensor, block by block and as many, or None to
    copy its own; it is called once for each tensor, in the order of the files. Beside the weights go config.json,
    tokenizer and other files that cannot run; each one left out is a finding. A weight file has its name only when
    it is complete.
    """
    findings = copy_companions(checkpoint, output)
    for file in checkpoint.files:
        partial = output / f".{file.path.name}.partial"
        with open_regular(file.path) as source, open(partial, "wb", buffering=0) as target:
            if file.path.name == PROGRAM:
                findings += _write_program(source, target, file, change)
            else:
                _write_file(source.fileno(), target.fileno(), file, change)
        partial.replace(output / file.path.name)
    return findings


def same_bytes(one: Checkpoint, other: Checkpoint, name: str) -> bool:
    """Whether a tensor has the same bytes in two checkpoints."""
    first, second = one.entry(name), other.entry(name)
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    with open_regular(one.file(name).path) as left, open_regular(other.file(name).path) as right:
        for start in range(0, first.end - first.begin, _BLOCK):
            size = min(_BLOCK, first.end - first.begin - start)
            ours = os.pread(left.fileno(), size, first.begin + start)
            if ours != os.pread(right.fileno(), size, second.begin + start):
                return False
    return True


def copy_companions(
    checkpoint: Checkpoint, output: Path, *, without: Collection[str] = ()
) -> tuple[Finding, ...]:
    """Copies what stands beside the weights and cannot run; each file that is left out is a finding, unless asked for."""
    weights = {file.path.name for file in checkpoint.files}
    findings = []
    for path in sorted(checkpoint.directory.iterdir()):
        if path.name in weights or path.name in without:
            continue
        if path.is_dir() and is_module(path.name) and (checkpoint.directory / MODULES).exists():
            _copy_module(path, output / path.name)
            continue
        if reason := _reason_to_leave(path):
            findings.append(
                Finding(kind="skipped_file", subject=printable(path.name), message=f"not copied: {reason}")
            )
            continue
        _copy_file(path, output / path.name)
    return tuple(findings)


def _copy_module(folder: Path, output: Path) -> None:
    """One of a sentence encoder's further modules."""
    output.mkdir()
    for path in map(folder.joinpath, MODULE_FILES):
        if path.exists():
            _copy_file(path, output / path.name)


def _copy_file(path: Path, output: Path) -> None:
    with open_regular(path) as source, open(output, "wb", buffering=0) as target:
        size = os.fstat(source.fileno()).st_size
        _copy_range(source.fileno(), target.fileno(), 0, size, path.name)


def read_exactly(descriptor: int, into: memoryview, offset: int, file: str) -> None:
    """Fills the buffer from the file at an offset; raises BadInput if the file ends before."""
    done = 0
    while done < len(into):
        count = os.preadv(descriptor, [into[done : done + (1 << 30)]], offset + done)
        if count == 0:
            raise _cut_short(file, offset + done)
        done += count


def count_not_finite(tensor: torch.Tensor) -> int:
    """How many entries are NaN or infinite: those whose exponent has every bit set."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return 0
    if tensor.dtype in (torch.float32, torch.float64) and torch.isfinite(tensor.sum()):
        return 0  # the quick way, for the widths at which sums are quick
    width = tensor.element_size()
    exponent = {torch.bfloat16: 0x7F80, torch.float16: 0x7C00, torch.float32: 0x7F800000}.get(
        tensor.dtype, 0x7FF << 52
    )
    bits = tensor.cpu().reshape(-1).view(torch.uint8).numpy().view(f"u{width}")
    mask = bits.dtype.type(exponent)
    parts = (bits[start : start + _CHUNK] & mask for start in range(0, bits.size, _CHUNK))
    return sum(int(np.count_nonzero(part == mask)) for part in parts)


def check_finite(tensor: torch.Tensor, name: str, file: str) -> None:
    """Raises BadInput if a tensor holds NaN or infinity."""
    if count := count_not_finite(tensor):
        raise BadInput(
            "a weight is not a number",
            why=f"{count} of {tensor.numel()} entries are NaN or infinite",
            do="Repair or re-export the model; such a model gives no meaningful output.",
            file=file,
            tensor=name,
        )


def _write_program(
    source: Any, target: Any, file: WeightFile, change: Callable[[str], Iterable[memoryview] | None]
) -> tuple[Finding, ...]:
    """Everything but the changed weights as it was, and no pickled examples: whoever loads a program would run them."""
    archive = read_archive(source, file.path.name)
    names = {entry.begin: entry.name for entry in file.entries.values()}
    tensors = {
        member.name: names[member.begin] for member in archive.members.values() if member.begin in names
    }
    left_out = write_archive(source, target, archive, tensors, lambda member: change(tensors[member]))
    message = "not copied: example inputs are pickled, and loading the program would run them; others it does not need"
    return tuple(Finding(kind="skipped_file", subject=printable(name), message=message) for name in left_out)


def _write_file(
    source: int, target: int, file: WeightFile, change: Callable[[str], Iterable[memoryview] | None]
) -> None:
    _write_all(target, memoryview(file.head))
    copied_from = copied_to = len(file.head)
    for entry in file.entries.values():
        blocks = change(entry.name)
        if blocks is None:
            copied_to = entry.end
            continue
        _copy_range(source, target, copied_from, entry.begin, file.path.name)
        written = sum(_write_all(target, block) for block in blocks)
        if written != entry.end - entry.begin:
            raise ValueError(f"{entry.name} takes {entry.end - entry.begin} bytes and was given {written}")
        copied_from = copied_to = entry.end
    _copy_range(source, target, copied_from, copied_to, file.path.name)


def _copy_range(source: int, target: int, begin: int, end: int, file: str) -> None:
    """Copies bytes inside the kernel, to the target's end."""
    while begin < end:
        count = os.sendfile(target, source, begin, end - begin)
        if count == 0:
            raise _cut_short(file, begin)
        begin += count


def _write_all(target: int, data: memoryview) -> int:
    data = data.cast("B")
    done = 0
    while done < len(data):
        done += os.write(target, data[done : done + (1 << 30)])
    return done


def _reason_to_leave(path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        return "it is not a regular file"
    if path.name.startswith(".") or not path.name.isprintable():
        return "its name is hidden or unprintable"
    if path.suffix not in _HARMLESS and path.name not in _HARMLESS_NAMES:
        return "files of this kind are no part of a safetensors model, or could run"
    if path.name.endswith(".index.json") and path.name != INDEX:
        return "it is the index of other weights"
    if path.stat().st_size > _MAX_COMPANION_BYTES:
        return f"it is larger than {_MAX_COMPANION_BYTES} bytes"
    return ""


def _cut_short(file: str, position: int) -> BadInput:
    return BadInput(
        "the weights cannot be read",
        why=f"the file ended at byte {position} while it was being read",
        do="Leave model files alone while they are in use.",
        file=file,
    )

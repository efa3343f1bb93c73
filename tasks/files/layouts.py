"""Effects. Which files hold a model's weights, and whether they agree with each other: indexes, shards, programs.

Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tasks.contract import BadInput, Finding, printable
from tasks.files.archives import PROGRAM
from tasks.files.headers import (
    EXPORT,
    MAX_HEADER_BYTES,
    MAX_NAME,
    WeightFile,
    open_regular,
    read_header,
    refuse,
)
from tasks.files.programfile import read_program_file
from tasks.files.strictjson import parse_object

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The files that hold a model's weights, in name order, and what is odd about them."""

    files: tuple[WeightFile, ...]
    index: Path | None
    findings: tuple[Finding, ...] = ()

    @property
    def format(self) -> str:
        """`safetensors`, or `pt2` for a program of torch.export."""
        return "pt2" if self.files[0].path.name == PROGRAM else "safetensors"


def read_layout(directory: Path) -> Layout:
    """Finds and checks every weight file of a model, and holds the index against what the files contain."""
    present = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    if SINGLE in present and INDEX in present:
        refuse(
            INDEX, f"{SINGLE} lies beside it, and each could be the model", do="Remove the one that is not."
        )
    if SINGLE in present:
        files: tuple[WeightFile, ...] = (read_header(directory / SINGLE),)
        return Layout(files=files, index=None, findings=_extra_files(present, {SINGLE}))
    if PROGRAM in present and INDEX not in present:
        files = (read_program_file(directory / PROGRAM),)
        return Layout(files=files, index=None, findings=_extra_files(present, {PROGRAM}))
    if INDEX not in present:
        _refuse_missing(directory, present)
    with open_regular(directory / INDEX) as stream:
        data = stream.read(MAX_HEADER_BYTES + 1)
    listed, total = check_index(data)
    for name in sorted(set(listed.values())):
        if name not in present:
            refuse(name, f"{INDEX} names this shard and it is not there", do="Fetch the missing file.")
    files = tuple(read_header(directory / name) for name in sorted(set(listed.values())))
    _check_listing(listed, files)
    findings = list(_extra_files(present, set(listed.values())))
    actual = sum(entry.end - entry.begin for file in files for entry in file.entries.values())
    if total is not None and total != actual:
        message = f"total_size says {total} bytes and the shards hold {actual}"
        findings.append(Finding(kind="total_size", subject=INDEX, message=message))
    return Layout(files=files, index=directory / INDEX, findings=tuple(findings))


def check_index(data: bytes, file: str = INDEX) -> tuple[dict[str, str], int | None]:
    """Tensor name -> shard (a plain name in the same directory), and the claimed bytes of all data."""
    index = parse_object(data, what="the weight index", file=file, max_bytes=MAX_HEADER_BYTES)
    listed = index.get("weight_map")
    if not isinstance(listed, dict) or not listed:
        refuse(file, "its weight_map is missing or empty")
    for tensor, shard in listed.items():
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard):
            why = f"{str(shard)[:200]!r} is not the plain name of a .safetensors file in the same directory"
            refuse(file, why, tensor[:MAX_NAME])
    metadata = index.get("metadata", {})
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    return listed, total if isinstance(total, int) and not isinstance(total, bool) else None


def _check_listing(listed: Mapping[str, str], files: tuple[WeightFile, ...]) -> None:
    holder: dict[str, str] = {}
    for file in files:
        for name in file.entries:
            if name in holder:
                refuse(file.path.name, f"it also stands in {holder[name]}", name)
            holder[name] = file.path.name
    for name, shard in listed.items():
        if holder.get(name) != shard:
            refuse(shard, f"{INDEX} lists it there and the file does not hold it", name)
    for name, shard in holder.items():
        if name not in listed:
            refuse(shard, f"the file holds it and {INDEX} does not list it", name)


def _extra_files(present: set[str], used: set[str]) -> tuple[Finding, ...]:
    extra = sorted(name for name in present - used if name.endswith(".safetensors"))
    return tuple(
        Finding(
            kind="extra_file",
            subject=printable(name),
            message="holds weights that the model does not name; left alone",
        )
        for name in extra
    )


def _refuse_missing(directory: Path, present: set[str]) -> NoReturn:
    endings = {Path(name).suffix for name in present}
    shards = sorted(name for name in present if name.endswith(".safetensors"))
    if "adapter_config.json" in present:
        why, do = "it is an adapter (LoRA), not a whole model", "Merge it into its base model first."
    elif shards and len(shards) > 1:
        why, do = (
            f"it has {len(shards)} weight files and no {INDEX}",
            "Add the index; which files belong is a guess.",
        )
    elif shards:
        why, do = f"its weights are called {shards[0]}", f"Name the file {SINGLE}."
    elif endings & {".bin", ".pt", ".pth", ".pkl", ".ckpt"}:
        why, do = "its weights are pickled, and a pickle can run code; it is never opened", EXPORT
    elif ".pt2" in endings:
        why, do = "its program of torch.export has another name", f"Name the file {PROGRAM}."
    elif ".gguf" in endings:
        why, do = "its weights are in GGUF, which is already quantized", "Use the original safetensors model."
    elif not directory.is_dir():
        why, do = "it is not a directory", "Name a directory in the Hugging Face layout."
    else:
        why, do = "it has no weights", f"Put {SINGLE}, or {INDEX} and its shards, there."
    raise BadInput("no weights to read", why=why, do=do, file=directory.name)

"""Effects. Writes a checkpoint whose tensors have other shapes than those of the one it comes from, or are fewer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from tasks.contract import Finding
from tasks.files.layouts import INDEX
from tasks.loading.weights import DTYPES, Checkpoint, copy_companions

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A tensor to be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def write_anew(
    checkpoint: Checkpoint,
    output: Path,
    tensors: Sequence[Stored],
    give: Callable[[str], torch.Tensor],
    config: str,
) -> tuple[Finding, ...]:
    """Writes the tensors to files of the same names as those they come from, in the same order, one at a time.

    `give(name)` is called once for each, in the order of the files. Beside the weights go `config` as config.json and the
    companions that `write_like` copies, with the same findings. A file without tensors is left out.
    """
    findings = copy_companions(checkpoint, output, without=("config.json", INDEX))
    (output / "config.json").write_text(config, encoding="utf-8")
    planned = {stored.name: stored for stored in tensors}
    home: dict[str, str] = {}
    for file in checkpoint.files:
        members = [planned[name] for name in file.entries if name in planned]
        if not members:
            continue
        partial = output / f".{file.path.name}.partial"
        with open(partial, "wb") as target:
            target.write(_head(members))
            for stored in members:
                tensor = give(stored.name).detach().cpu().contiguous()
                if tensor.dtype != stored.dtype or tuple(tensor.shape) != stored.shape:
                    raise ValueError(f"{stored.name} was to be {stored} and is {tensor.dtype} {tensor.shape}")
                target.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
        partial.replace(output / file.path.name)
        home |= dict.fromkeys((stored.name for stored in members), file.path.name)
    if missing := sorted(planned.keys() - home.keys()):
        raise ValueError(f"{missing[0]} is in no file of the checkpoint it comes from")
    if checkpoint.index:
        (output / INDEX).write_text(_index(planned, home), encoding="utf-8")
    return findings


def _head(members: Sequence[Stored]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for stored in members:
        entries[stored.name] = {
            "dtype": _NAMES[stored.dtype],
            "shape": list(stored.shape),
            "data_offsets": [begin, begin + stored.bytes],
        }
        begin += stored.bytes
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    return len(header).to_bytes(8, "little") + header


def _index(planned: Mapping[str, Stored], home: Mapping[str, str]) -> str:
    total = sum(stored.bytes for stored in planned.values())
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(home.items()))}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

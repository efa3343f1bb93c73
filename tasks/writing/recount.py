"""Effects. Re-opens a pruned checkpoint and counts, from its bytes alone, what became of the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from types import MappingProxyType

import numpy as np
import torch

from tasks.loading.models import Layer, rows_of, weight_stored
from tasks.loading.weights import Checkpoint, same_bytes

_CHUNK = 1 << 16
"""Weights compared together, so that what is computed of them stays in a processor's cache."""


class ArtifactWrong(RuntimeError):
    """A written artifact is not what it was meant to be: a fault of ours, not of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a stored tensor of a layer was to become."""

    layer: Layer
    pruned: int
    """At least so many zeros."""
    group: tuple[int, int] | None
    """(N, M): of each M consecutive inputs at most N are not zero."""
    block: tuple[int, int] | None = None
    """(R, C): what went did so in whole blocks of R rows and C inputs."""
    digest: str | None = None
    """`digest_of` its bytes, where entries other than zero were to change too."""


def recount(
    dense: Checkpoint,
    pruned: Checkpoint,
    written: Mapping[str, Sequence[Written]],
    retouched: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, int]:
    """Zeros of every changed layer, by its name; the layers are given by stored tensor.

    Raises ArtifactWrong unless all is as it was meant:

    A changed tensor has each entry as it was or zero, or the digest that it was to have; and enough zeros, in the right
    groups. Its entries are finite: the dense model's are, and those that are reconstructed were checked. A tensor that
    is `retouched`, and no layer, has the digest that stands there. All other tensors have the same bytes, and all headers
    are the same.
    """
    if [file.head for file in dense.files] != [file.head for file in pruned.files]:
        raise ArtifactWrong("the files of the artifact have other headers than those of the model")
    zeros: dict[str, int] = {}
    for name in dense.names:
        if name in retouched and name not in written:
            if digest_of(pruned.mapped(name)) != retouched[name]:
                raise ArtifactWrong(f"{name} has other bytes than were to be written")
            pruned.release()
            continue
        if name not in written:
            if not same_bytes(dense, pruned, name):
                raise ArtifactWrong(f"{name} was not to change and did")
            continue
        whole = dense.mapped(name), pruned.mapped(name)
        for meant in written[name]:
            before, after = (weight_stored(meant.layer, tensor) for tensor in whole)
            zeros[meant.layer.name] = _check(meant, before, after, name)
        _check_rest(*whole, written[name], name)
        dense.release()
        pruned.release()
    return zeros


def count_nonzero(checkpoint: Checkpoint, names: Sequence[str]) -> int:
    """How many entries of some tensors are not zero."""
    total = 0
    for name in names:
        total += int(torch.count_nonzero(checkpoint.mapped(name)))
        checkpoint.release()
    return total


def digest_of(tensor: torch.Tensor) -> str:
    """Of a tensor's bytes."""
    return blake2b(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def _check(meant: Written, before: torch.Tensor, after: torch.Tensor, name: str) -> int:
    """The zeros of one layer, which is as it was meant."""
    if meant.digest is None:
        zeros = _count(before, after, name)
    else:
        zeros = after.numel() - int(torch.count_nonzero(after))
        if digest_of(after) != meant.digest:
            raise ArtifactWrong(f"{name} has other bytes than were to be written")
    if zeros < meant.pruned:
        raise ArtifactWrong(f"{name} has {zeros} zeros and was to have {meant.pruned}")
    if meant.group is not None:
        _check_groups(rows_of(meant.layer, after), *meant.group, name)
    if meant.block is not None:
        _check_blocks(rows_of(meant.layer, after), *meant.block, meant.pruned, name)
    return zeros


def _check_rest(before: torch.Tensor, after: torch.Tensor, members: Sequence[Written], name: str) -> None:
    """The experts of a fused weight that were not to change did not."""
    indices = {meant.layer.place.index for meant in members if meant.layer.place}
    if not indices or None in indices:
        return
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        if index not in indices and digest_of(old) != digest_of(new):
            raise ArtifactWrong(f"expert {index} of {name} was not to change and did")


def _count(before: torch.Tensor, after: torch.Tensor, name: str) -> int:
    """Compares bit patterns, so that no rounding and no kind of zero can hide a change."""
    kind = np.dtype(f"u{before.element_size()}")
    old = before.reshape(-1).view(torch.uint8).numpy().view(kind)
    new = after.reshape(-1).view(torch.uint8).numpy().view(kind)
    zeros = 0
    for start in range(0, new.size, _CHUNK):
        part = new[start : start + _CHUNK]
        is_zero = (part << 1) == 0
        zeros += int(np.count_nonzero(is_zero))
        if not (is_zero | (part == old[start : start + _CHUNK])).all():
            raise ArtifactWrong(f"{name} has entries that are neither zero nor as they were")
    return zeros


def _check_blocks(rows: torch.Tensor, high: int, wide: int, pruned: int, name: str) -> None:
    step = max(1, _CHUNK // max(1, rows.shape[1]) // high) * high
    empty = 0
    for start in range(0, rows.shape[0], step):
        part = rows[start : start + step] != 0
        blocks = part.reshape(part.shape[0] // high, high, part.shape[1] // wide, wide)
        empty += int((blocks.sum(dim=(1, 3)) == 0).sum())
    if empty * high * wide < pruned:
        raise ArtifactWrong(
            f"{name} has {empty} empty blocks of {high} x {wide} and was to have {pruned // (high * wide)}"
        )


def _check_groups(rows: torch.Tensor, kept: int, group: int, name: str) -> None:
    step = max(1, _CHUNK // max(1, rows.shape[1]))
    for start in range(0, rows.shape[0], step):
        members = (rows[start : start + step] != 0).reshape(-1, group).sum(dim=1)
        if bool((members > kept).any()):
            raise ArtifactWrong(f"{name} has more than {kept} of {group} consecutive inputs left")

"""Pure. (score, amount, pattern, scope) -> which weights go: exact counts, and a written rule for equal scores.

Unstructured: of the n scores of a scope (the tensor, or one row of it) the lowest `pruned_count(amount, n)` go.
N:M: of each M consecutive inputs of a row the N highest stay. Blocks: the same as unstructured for whole blocks of R rows by
C inputs, each worth the sum of its squared scores; scope row is a band of R rows, blocks count from left to right. Equal scores keep the lower flat index: the last of
equals goes first. The inputs of a row are all dimensions but the first, flattened (in_channels, height, width).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tasks.masks.ranks import nth_lowest, nth_lowest_of_rows

UNSTRUCTURED = "unstructured"
SCOPES = ("tensor", "row")
_CHUNK = 1 << 18
"""Scores handled together, so that what is computed of them stays in a processor's cache."""
_FEW = 16
"""Up to so many members of a group are compared pair by pair; above, sorting is quicker."""

_LOOKS_LIKE = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
_INFINITY = {
    dtype: int(torch.tensor(math.inf, dtype=dtype).view(bits)) for dtype, bits in _LOOKS_LIKE.items()
}

Array = npt.NDArray[Any]


class NotANumber(ValueError):
    """A score is NaN."""


def pruned_count(amount: float, size: int) -> int:
    """floor(amount * size + 1/2), exact for the amount as it is written in decimal: 0.35 of 10 is 4."""
    if not 0 <= amount <= 1:
        raise ValueError(f"an amount is a share from 0 to 1, not {amount!r}")
    return math.floor(Fraction(repr(float(amount))) * size + Fraction(1, 2))


def kept_of_group(pattern: str) -> tuple[int, int] | None:
    """(N, M) of an N:M pattern, None for the unstructured one; ValueError for anything else."""
    if pattern == UNSTRUCTURED or block_of(pattern):
        return None
    found = re.fullmatch(r"([1-9]\d?):([1-9]\d?)", pattern)
    if found is None or int(found[1]) >= int(found[2]):
        raise ValueError(f"{pattern!r} is no pattern: use unstructured, N:M with N below M, or block:RxC")
    return int(found[1]), int(found[2])


def block_of(pattern: str) -> tuple[int, int] | None:
    """(R, C) of a pattern block:RxC, None for any other."""
    found = re.fullmatch(r"block:([1-9]\d{0,3})x([1-9]\d{0,3})", pattern)
    return (int(found[1]), int(found[2])) if found else None


def mask_of(score: torch.Tensor, amount: float | None, pattern: str, scope: str | None) -> torch.Tensor:
    """True where the weight goes; same shape and device as the score, which is [out, in] or [out, in, kh, kw].

    `amount` may be None for N:M, which implies it; `scope` is `tensor`, `row`, or None (tensor). NotANumber if a
    score is NaN; ValueError if the amount is out of range, or M does not divide the inputs of a row.
    """
    if block := block_of(pattern):
        return _mask_blocks(score.detach(), amount, *block, scope).to(score.device)
    flat = _ordered(score.detach().reshape(-1))
    groups = kept_of_group(pattern)
    rows = score.shape[0] if score.dim() else 1
    if groups is not None:
        mask = _mask_groups(flat, rows, *groups, amount)
    elif amount is None:
        raise ValueError("an unstructured pattern needs an amount")
    elif scope == "row":
        mask = _mask_rows(flat.reshape(rows, -1), amount) if flat.size else np.zeros(0, dtype=bool)
    elif scope in (None, "tensor"):
        mask = mask_lowest(flat, pruned_count(amount, flat.size))
    else:
        raise ValueError(f"{scope!r} is no scope: use one of {', '.join(SCOPES)}")
    return torch.from_numpy(mask).reshape(score.shape).to(score.device)


def block_worths(score: Array, rows: int, columns: int) -> Array:
    """Sum of the squares in each block of a matrix, float64; added up row by row, from left to right."""
    high, wide = score.shape
    if high % rows or wide % columns:
        raise ValueError(f"blocks of {rows} x {columns} do not divide a matrix of {high} x {wide}")
    blocks = np.square(score.astype(np.float64)).reshape(high // rows, rows, wide // columns, columns)
    worth = np.zeros((high // rows, wide // columns))
    for row in range(rows):
        for column in range(columns):
            worth += blocks[:, row, :, column]
    return worth


def _mask_blocks(
    score: torch.Tensor, amount: float | None, rows: int, columns: int, scope: str | None
) -> torch.Tensor:
    if amount is None:
        raise ValueError("a pattern of blocks needs an amount")
    wide = score.double() if score.dtype is torch.float64 else score.float()
    with np.errstate(over="ignore"):  # told by the caller, who sees that the scores are too large
        worth = block_worths(wide.reshape(len(score), -1).cpu().numpy(), rows, columns)
    if np.isnan(worth).any():
        raise NotANumber("a score is not a number")
    if scope == "row":
        gone = _mask_rows(worth, amount) if worth.size else np.zeros(worth.shape, dtype=bool)
    elif scope in (None, "tensor"):
        gone = mask_lowest(worth.reshape(-1), pruned_count(amount, worth.size)).reshape(worth.shape)
    else:
        raise ValueError(f"{scope!r} is no scope: use one of {', '.join(SCOPES)}")
    whole = gone.repeat(rows, axis=0).repeat(columns, axis=1)
    return torch.from_numpy(whole).reshape(score.shape)


def mark_upright(score: torch.Tensor, kept: int, out: torch.Tensor) -> None:
    """N:M groups that stand upright: writes 0 for the `kept` highest of each column of [M, columns], of equals the first.

    1 for those that go. Scores have to be finite; `out` is of the same shape, and floating.
    """
    group = len(score)
    if group > _FEW:
        order = score.sort(dim=0, descending=True, stable=True).indices
        out.fill_(1.0).scatter_(0, order[:kept], 0.0)
        return
    first, second, signs, others = _duels(group, kept, score.device)
    lower, higher = score.index_select(0, first), score.index_select(0, second)
    torch.ge(lower, higher, out=lower)
    torch.clamp(torch.addmm(others, signs, lower), 0.0, 1.0, out=out)


@lru_cache
def _duels(group: int, kept: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """All pairs (lower index, higher index) of a group, and how to tell from which lower ones won who goes.

    A member is beaten as often as there are others after it, less what it won of them, and by those before it that won;
    it goes where `others + signs @ won` = that number - kept + 1 is 1 or more.
    """
    first, second = torch.triu_indices(group, group, 1, device=device)
    members = torch.arange(group, device=device).unsqueeze(1)
    signs = (members == second).float() - (members == first).float()
    return first, second, signs, (group - members - kept).float()


def mask_lowest(score: Array, count: int) -> Array:
    """Marks the `count` lowest of a flat array; of equals the last."""
    mask = np.zeros(score.size, dtype=bool)
    if count == 0:
        return mask
    if count == score.size:
        return ~mask
    threshold = nth_lowest(score, count)
    equal, below = [], 0
    for start in range(0, score.size, _CHUNK):
        part = score[start : start + _CHUNK]
        below += int(np.count_nonzero(np.less(part, threshold, out=mask[start : start + _CHUNK])))
        equal.append(np.flatnonzero(part == threshold) + start)
    ties = np.concatenate(equal)
    mask[ties[ties.size - (count - below) :]] = True
    return mask


def _ordered(flat: torch.Tensor) -> Array:
    """A numpy array of the same order; floats, if none is negative, as the integers they look like."""
    flat = flat.cpu().contiguous()
    if looks := _LOOKS_LIKE.get(flat.dtype):
        bits: Array = flat.view(looks).numpy()
        highest = int(bits.view(f"u{bits.itemsize}").max(initial=0))  # the sign is the highest bit
        if highest <= _INFINITY[flat.dtype]:
            return bits
        if flat.isnan().any():
            raise NotANumber("a score is not a number")
    array: Array = (flat.float() if flat.dtype in (torch.bfloat16, torch.float16) else flat).numpy()
    return array


def _mask_rows(score: Array, amount: float) -> Array:
    count = pruned_count(amount, score.shape[1])
    if count in (0, score.shape[1]):
        return np.full(score.shape, count > 0)
    step = max(1, _CHUNK // score.shape[1])
    parts = [_mask_some_rows(score[start : start + step], count) for start in range(0, len(score), step)]
    return np.concatenate(parts)


def _mask_some_rows(score: Array, count: int) -> Array:
    threshold = nth_lowest_of_rows(score, count)
    mask: Array = score <= threshold
    if np.count_nonzero(mask) > count * len(mask):  # more are equal than go
        for row in np.flatnonzero(mask.sum(axis=1) > count):
            ties = np.flatnonzero(score[row] == threshold[row])
            mask[row, ties[: np.count_nonzero(mask[row]) - count]] = False
    return mask


def _mask_groups(flat: Array, rows: int, kept: int, group: int, amount: float | None) -> Array:
    if amount is not None and abs(amount - (1 - kept / group)) > 1e-9:
        raise ValueError(f"pattern {kept}:{group} prunes {1 - kept / group:g} and not {amount!r}")
    if rows and flat.size // rows % group:
        raise ValueError(f"{group} does not divide the {flat.size // rows} inputs of a row")
    if flat.size % 8 or 8 % group:
        return _mask_groups_by_rank(flat.reshape(-1, group), kept)
    mask = np.empty(flat.size, dtype=bool)
    for start in range(0, flat.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        _mask_packed_groups(flat[part], kept, group, mask[part])
    return mask


def _mask_groups_by_rank(score: Array, kept: int) -> Array:
    mask = np.zeros(score.shape, dtype=bool)
    from_behind = np.argsort(score[:, ::-1], axis=1, kind="stable")[:, : score.shape[1] - kept]
    np.put_along_axis(mask[:, ::-1], from_behind, True, axis=1)
    return mask.reshape(-1)


def _mask_packed_groups(score: Array, kept: int, group: int, out: Array) -> None:
    """Of groups in a row, who is beaten by `kept` others of its group goes; of equals the first wins.

    At first, all who come after a member of the group beat it. Then everybody meets those one place after, at once, then
    those two places after, and so on: where the first wins, it is beaten once less and the other once more. Eight numbers,
    of a byte each, are one integer, the first its lowest byte: both changes are one product.
    """
    after, rounds = _packed_rounds(group)
    beaten = np.full(score.size // 8, after)
    won = np.empty(score.size, dtype=bool)
    packed = won.view(after.dtype)
    for apart, (of_one_group, both_changes) in enumerate(rounds, 1):
        np.greater_equal(score[:-apart], score[apart:], out=won[:-apart])
        packed &= of_one_group
        packed *= both_changes
        beaten += packed
    np.greater_equal(beaten.view(np.uint8), kept, out=out)


@lru_cache
def _packed_rounds(group: int) -> tuple[Array, list[tuple[Array, Array]]]:
    """(how many come after each of eight members, for each distance: who has one so far after it, what it changes to win)."""
    places = range(8)

    def packed(values: Iterable[int]) -> Array:
        return np.array(sum(value << 8 * at for at, value in enumerate(values)), dtype="<u8")

    rounds = [
        (packed(at % group + apart < group for at in places), np.array((1 << 8 * apart) - 1, dtype="<u8"))
        for apart in range(1, group)
    ]
    return packed(group - 1 - at % group for at in places), rounds

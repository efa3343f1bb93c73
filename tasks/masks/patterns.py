"""Pure. (score, amount, pattern, scope) -> which weights go: exact counts, and a written rule for equal scores.

Unstructured: of the n scores of a scope (the tensor, or one row of it) the lowest `pruned_count(amount, n)` go.
N:M: of each M consecutive inputs of a row the N highest stay. Blocks: the same as unstructured for whole blocks of R rows by
C inputs, each worth the sum of its squared scores; scope row is a band of R rows, blocks count from left to right. Equal scores keep the lower flat index: the last of
equals goes first. The inputs of a row are all dimensions but the first, flattened (in_channels, height, width).
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

UNSTRUCTURED = "unstructured"
SCOPES = ("tensor", "row")
_SAMPLE = 1 << 16
"""Scores drawn to guess where the threshold lies; which ones changes how long it takes, never the result."""
_SLACK = 800
"""Places of the sample on both sides of the guess: six standard deviations of the rank of a median."""
_CHUNK = 1 << 16
"""Scores handled together, so that what is computed of them stays in a processor's cache."""
_FEW = 16
"""Up to so many members of a group are compared pair by pair; above, sorting is quicker."""

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
    threshold = _nth_lowest(score, count)
    equal, below = [], 0
    for start in range(0, score.size, _CHUNK):
        part = score[start : start + _CHUNK]
        below += int(np.count_nonzero(np.less(part, threshold, out=mask[start : start + _CHUNK])))
        equal.append(np.flatnonzero(part == threshold) + start)
    ties = np.concatenate(equal)
    mask[ties[ties.size - (count - below) :]] = True
    return mask


def _ordered(flat: torch.Tensor) -> Array:
    """A numpy array of the same order; 16-bit floats, if none is negative, as the integers they look like."""
    flat = flat.cpu()
    highest_bits = {torch.bfloat16: 0x7F80, torch.float16: 0x7C00}.get(flat.dtype)
    if highest_bits is not None:
        bits = flat.contiguous().view(torch.int16).numpy()
        if bits.size == 0 or bits.min() >= 0:
            if bits.size and bits.max() > highest_bits:
                raise NotANumber("a score is not a number")
            return bits
        flat = flat.float()
    if flat.is_floating_point() and flat.sum().isnan() and flat.isnan().any():
        raise NotANumber("a score is not a number")
    array: Array = flat.contiguous().numpy()
    return array


def _nth_lowest(score: Array, count: int) -> Any:
    """The value of rank `count`, from 1: a sample brackets it, a pass counts, only the bracket is partitioned."""
    if score.size > 8 * _SAMPLE:
        sample = np.sort(score[np.random.default_rng(0).integers(0, score.size, _SAMPLE)])
        guess = count * sample.size // score.size
        low = sample[max(0, guess - _SLACK)] if guess > _SLACK else None
        high = sample[guess + _SLACK] if guess + _SLACK < sample.size else None
        below, inside = _split(score, low, high)
        if below < count <= below + inside.size:
            return _partitioned(inside, count - below)
    return _partitioned(score, count)


def _partitioned(score: Array, count: int) -> Any:
    if score.dtype == np.int16:  # bfloat16 has few values and many equals, which partitioning is slow at
        lowest = int(score.min())
        tally = np.cumsum(np.bincount(score.astype(np.int64) - lowest))
        return np.int16(lowest + int(np.searchsorted(tally, count)))
    return np.partition(score, count - 1)[count - 1]


def _split(score: Array, low: Any, high: Any) -> tuple[int, Array]:
    """How many are below `low`, and those from `low` to `high`; None is no bound."""
    below, inside = 0, []
    for start in range(0, score.size, _CHUNK):
        part = score[start : start + _CHUNK]
        within = np.ones(part.size, dtype=bool) if low is None else part >= low
        below += part.size - int(np.count_nonzero(within))
        if high is not None:
            within &= part <= high
        inside.append(part[within])
    return below, np.concatenate(inside)


def _mask_rows(score: Array, amount: float) -> Array:
    count = pruned_count(amount, score.shape[1])
    if count in (0, score.shape[1]):
        return np.full(score.shape, count > 0)
    step = max(1, _CHUNK // score.shape[1])
    parts = [_mask_some_rows(score[start : start + step], count) for start in range(0, len(score), step)]
    return np.concatenate(parts)


def _mask_some_rows(score: Array, count: int) -> Array:
    parted = np.partition(score, count - 1, axis=1)
    threshold = parted[:, count - 1 : count]
    mask: Array = score <= threshold
    for row in np.flatnonzero(parted[:, count:].min(axis=1) == threshold[:, 0]):  # more are equal than go
        ties = np.flatnonzero(score[row] == threshold[row])
        mask[row, ties[: np.count_nonzero(mask[row]) - count]] = False
    return mask


def _mask_groups(flat: Array, rows: int, kept: int, group: int, amount: float | None) -> Array:
    if amount is not None and abs(amount - (1 - kept / group)) > 1e-9:
        raise ValueError(f"pattern {kept}:{group} prunes {1 - kept / group:g} and not {amount!r}")
    if rows and flat.size // rows % group:
        raise ValueError(f"{group} does not divide the {flat.size // rows} inputs of a row")
    mask = np.empty(flat.size, dtype=bool)
    step = min(_CHUNK // group * group, flat.size)
    after = np.tile(np.arange(group, dtype=np.uint8)[::-1], step // group)
    for start in range(0, flat.size, step or 1):
        part = flat[start : start + step]
        _mask_some_groups(part, kept, after[: part.size], mask[start : start + step])
    return mask


def _mask_some_groups(score: Array, kept: int, after: Array, out: Array) -> None:
    """Of groups in a row, who is beaten by `kept` others of its group goes; of equals the first wins.

    `after` counts the members of its group that come after each. At first, all of these beat it. Then everybody meets those one place
    after, at once, then those two places after, and so on: where the first wins, it is beaten once less and the other once more.
    """
    beaten = after.copy()
    for apart in range(1, after[0] + 1):
        won = (score[:-apart] >= score[apart:]).view(np.uint8)
        won &= (after[:-apart] >= apart).view(np.uint8)  # both are of one group
        beaten[apart:] += won
        beaten[:-apart] -= won
    np.greater_equal(beaten, kept, out=out)

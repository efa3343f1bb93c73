"""Pure. (score, amount, pattern, scope) -> which weights go: exact counts, and a written rule for equal scores.

Unstructured: of the n scores of a scope (the tensor, or one row of it) the lowest `pruned_count(amount, n)` go.
N:M: of each M consecutive inputs of a row the N highest stay. Blocks: the same as unstructured for whole blocks of R rows by
C inputs, each worth the sum of its squared scores; scope row is a band of R rows, blocks count from left to right. Equal scores keep the lower flat index: the last of
equals goes first. The inputs of a row are all dimensions but the first, flattened (in_channels, height, width).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
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
    score = flat.reshape(-1, group)
    if group > _FEW:
        order = _descending(score)
        mask = np.ones(score.shape, dtype=bool)
        np.put_along_axis(mask, order[:, :kept], False, axis=1)
        return mask.reshape(-1)
    mask = np.empty(score.shape, dtype=bool)
    step = max(1, _CHUNK // group)
    registers = np.empty((_selection(group, kept)[1] - group, min(step, len(score))), score.dtype)
    for start in range(0, len(score), step):
        part = score[start : start + step]
        _mask_some_groups(part, kept, registers[:, : len(part)], mask[start : start + step])
    return mask.reshape(-1)


def _mask_some_groups(score: Array, kept: int, registers: Array, out: Array) -> None:
    """Of groups [groups, M]: what is below the least that stays goes, and of equals the last."""
    count, group = score.shape
    members = np.ascontiguousarray(score.T)
    values = [*members, *registers]
    steps, _ = _selection(group, kept)
    for choose, one, other, to in steps:
        choose(values[one], values[other], out=values[to])
    threshold = values[steps[-1][-1]]
    for index, member in enumerate(members):
        np.less(member, threshold, out=out[:, index])
    if np.count_nonzero(out) != count * (group - kept):
        tied = np.flatnonzero(np.count_nonzero(out, axis=1) != group - kept)
        out[tied] = _beaten(members[:, tied], kept).T


def _beaten(members: Array, kept: int) -> Array:
    """The same of groups that stand upright, [M, groups], pair by pair: what so many beat goes, and of equals the first wins."""
    beaten_by = np.zeros(members.shape, dtype=np.uint8)
    for first, one in enumerate(members):
        won = one >= members[first + 1 :]
        np.add(beaten_by[first + 1 :], won.view(np.uint8), out=beaten_by[first + 1 :])
        beaten_by[first] += np.uint8(len(won)) - won.view(np.uint8).sum(axis=0, dtype=np.uint8)
    mask: Array = beaten_by >= kept
    return mask


_Step = tuple[Callable[..., Any], int, int, int]


@lru_cache
def _selection(group: int, kept: int) -> tuple[tuple[_Step, ...], int]:
    """How the `kept`-th highest of a group is found: the lesser or greater of two registers into a third; and how many there are.

    The first registers are the group's members, and are only read; the last step's is the result. What is left of Batcher's
    sorting network when only one of its outputs is wanted.
    """
    wanted, comparators = {group - kept}, []
    for low, high in reversed([*_sorting_network(group)]):
        if wanted & {low, high}:
            comparators.append((low, high, low in wanted, high in wanted))
            wanted |= {low, high}
    at, free, registers = list(range(group)), list[int](), group
    steps: list[_Step] = []
    for low, high, *wants in reversed(comparators):
        read = at[low], at[high]
        for wire, choose, is_wanted in zip((low, high), (np.minimum, np.maximum), wants, strict=True):
            if is_wanted:
                if not free:
                    free, registers = [registers], registers + 1
                at[wire] = free.pop()
                steps.append((choose, *read, at[wire]))
        free += [register for register in read if register >= group]
    return tuple(steps), registers


def _sorting_network(size: int) -> Iterator[tuple[int, int]]:
    """Comparators (lower place, higher place) that sort so many values. Source: Batcher 1968, odd-even merging."""
    sorted_runs = 1
    while sorted_runs < size:
        apart = sorted_runs
        while apart:
            for start in range(apart % sorted_runs, size - apart, 2 * apart):
                for low in range(start, min(start + apart, size - apart)):
                    if low // (2 * sorted_runs) == (low + apart) // (2 * sorted_runs):
                        yield low, low + apart
            apart //= 2
        sorted_runs *= 2


def _descending(score: Array) -> Array:
    """Order from highest to lowest, equals by index."""
    backwards = np.argsort(score[:, ::-1], axis=1, kind="stable")[:, ::-1]
    order: Array = score.shape[1] - 1 - backwards
    return order

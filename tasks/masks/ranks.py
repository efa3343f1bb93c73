"""Pure. The value of a rank among many, without sorting all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

_SAMPLE = 1 << 14
"""Values drawn to guess where one lies; which ones changes how long it takes, never the result."""
_SLACK = 400
"""Places of the sample on both sides of the guess: six standard deviations of the rank of a median."""
_CHUNK = 1 << 17
"""Values handled together, so that what is computed of them stays in a processor's cache."""
_RUN = 256
"""Values of a row that are sorted together."""
_EVERY = 8
"""One in so many of a sorted run is looked at to guess where the value lies."""
_NEAR = 32
"""Places of a run around the guess: four times as many as it is uncertain by."""

Array = npt.NDArray[Any]


def nth_lowest(values: Array, count: int) -> Any:
    """The value of rank `count`, from 1: a sample brackets it, a pass counts, only those inside compete."""
    if values.size > 8 * _SAMPLE:
        sample = np.sort(values[np.random.default_rng(0).integers(0, values.size, _SAMPLE)])
        guess = count * sample.size // values.size
        low = sample[max(0, guess - _SLACK)] if guess > _SLACK else None
        high = sample[guess + _SLACK] if guess + _SLACK < sample.size else None
        below, inside = _split(values, low, high)
        if below < count <= below + inside.size:
            return _nth_of_all(inside, count - below)
    return _nth_of_all(values, count)


def _nth_of_all(values: Array, count: int) -> Any:
    if values.dtype == np.int16:  # bfloat16 has few values and many equals, which all else is slow at
        lowest = int(values.min())
        tally = np.cumsum(np.bincount(values.astype(np.int64) - lowest))
        return np.int16(lowest + int(np.searchsorted(tally, count)))
    return nth_lowest_of_rows(values[np.newaxis], count)[0, 0]


def _split(values: Array, low: Any, high: Any) -> tuple[int, Array]:
    """How many are below `low`, and those from `low` to `high`; None is no bound."""
    below, inside = 0, []
    for start in range(0, values.size, _CHUNK):
        part = values[start : start + _CHUNK]
        within = np.ones(part.size, dtype=bool) if low is None else part >= low
        below += part.size - int(np.count_nonzero(within))
        if high is not None:
            within &= part <= high
        inside.append(part[within])
    return below, np.concatenate(inside)


def nth_lowest_of_rows(values: Array, count: int) -> Array:
    """The value of rank `count`, from 1, of each row: [rows, 1].

    Runs of a row are sorted, which is quick as they are short, and some members of them tell about where the value lies in
    each. Those around it compete; where one that was left out might have been the value, the whole row does.
    """
    rows, size = values.shape
    runs = size // _RUN
    if size <= 2 * _RUN:
        return _nth_by_partition(values, count)
    ordered = np.sort(values[:, : runs * _RUN].reshape(rows * runs, _RUN), axis=1)
    looked_at = ordered[:, _EVERY // 2 :: _EVERY]
    of_row = looked_at.reshape(rows, -1)
    place = min(count * of_row.shape[1] // size, of_row.shape[1] - 1)
    guess = np.partition(of_row, place, axis=1)[:, place].repeat(runs)
    first = _EVERY * np.count_nonzero(looked_at <= guess[:, None], axis=1) - _NEAR // 2
    first = first.clip(0, _RUN - _NEAR)
    near = sliding_window_view(ordered.reshape(-1), _NEAR)[first + np.arange(0, ordered.size, _RUN)]
    rivals = np.concatenate([near.reshape(rows, -1), values[:, runs * _RUN :]], axis=1)
    rivals.sort(axis=1)
    rank = count - first.reshape(rows, runs).sum(axis=1)
    found = np.take_along_axis(rivals, (rank - 1).clip(0, rivals.shape[1] - 1)[:, None], axis=1)
    value = found.repeat(runs)
    none_below = (first == 0) | (near[:, 0] <= value)
    none_above = (first == _RUN - _NEAR) | (value <= near[:, -1])
    is_sure = (none_below & none_above).reshape(rows, runs).all(axis=1)
    is_sure &= (rank >= 1) & (rank <= rivals.shape[1])
    if not is_sure.all():
        found[~is_sure] = _nth_by_partition(values[~is_sure], count)
    return found


def _nth_by_partition(values: Array, count: int) -> Array:
    parted: Array = np.partition(values, count - 1, axis=1)
    return parted[:, count - 1 : count]

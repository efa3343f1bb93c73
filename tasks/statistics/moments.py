"""Pure. Means, magnitudes and variances of what a layer is given, batch by batch, without cancellation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Of so many vectors: float64 [inputs] each."""

    count: int
    means: torch.Tensor
    magnitudes: torch.Tensor
    """Means of absolute values."""
    spreads: torch.Tensor
    """Sums of the squared distances from the mean."""

    @property
    def variances(self) -> torch.Tensor:
        """Mean squared distances from the mean."""
        return self.spreads / self.count

    def and_of(self, other: Moments) -> Moments:
        """The moments of both samples together (Chan, Golub and LeVeque, 1979)."""
        count = self.count + other.count
        share = other.count / count
        apart = other.means - self.means
        return Moments(
            count=count,
            means=self.means + apart * share,
            magnitudes=self.magnitudes + (other.magnitudes - self.magnitudes) * share,
            spreads=self.spreads + other.spreads + apart.square() * (self.count * share),
        )

    def clone(self) -> Moments:
        """The same in memory of its own."""
        return Moments(
            count=self.count,
            means=self.means.clone(),
            magnitudes=self.magnitudes.clone(),
            spreads=self.spreads.clone(),
        )


def moments_of(values: torch.Tensor, around: Sequence[int]) -> Moments:
    """Of float32 values, over some of their dimensions; one number for each place of what is left."""
    dims = list(around)
    count = 1
    for dim in dims:
        count *= values.shape[dim]
    means = values.sum(dims, keepdim=True, dtype=torch.float64) / count
    shift = means.float()  # near the mean float32 subtracts exactly, so that a large mean costs no digits
    apart = (values - shift).square().sum(dims, dtype=torch.float64)
    means, rest = means.flatten(), (means - shift.double()).flatten()
    return Moments(
        count=count,
        means=means,
        magnitudes=values.abs().sum(dims, dtype=torch.float64) / count,
        spreads=(apart - count * rest.square()).clamp_min_(0.0),
    )


def side_by_side(parts: Sequence[Moments]) -> Moments:
    """Of vectors whose entries are taken from each part in turn: all first ones, then all second ones."""
    return Moments(
        count=parts[0].count,
        means=torch.stack([part.means for part in parts], dim=1).flatten(),
        magnitudes=torch.stack([part.magnitudes for part in parts], dim=1).flatten(),
        spreads=torch.stack([part.spreads for part in parts], dim=1).flatten(),
    )

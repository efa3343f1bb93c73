"""Pure. One vector an example of a model that has no head, and how far two of them point apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tasks.files.modules import MEAN


def pooled(answer: Any, mask: torch.Tensor | None, modes: Sequence[str] = MEAN) -> torch.Tensor:
    """The last hidden states of all positions as one vector: float32 [members, features].

    Of a text over its tokens, padding (`mask` 0, on the right) left out, in each of the ways of `tasks.files.modules`, side by side;
    of an image the mean over patches or places. A plain tensor is the embedding already. A pooler of the model's own is not
    asked: in many checkpoints it was never trained.
    """
    states: torch.Tensor = answer if isinstance(answer, torch.Tensor) else answer.last_hidden_state
    states = states.float()
    if states.dim() == 2:
        return states
    if states.dim() == 4:  # [members, channels, height, width]
        return states.mean((2, 3))
    if mask is None:
        return states.mean(1)
    return torch.cat([_of_tokens(states, mask, mode) for mode in modes], 1)


def _of_tokens(states: torch.Tensor, mask: torch.Tensor, mode: str) -> torch.Tensor:
    """[members, tokens, features] -> [members, features]; as the library sentence-transformers does it."""
    weights = mask[:, :, None].to(states.dtype)
    match mode:
        case "cls":
            return states[:, 0]
        case "lasttoken":
            return states[torch.arange(len(states)), mask.sum(1) - 1]
        case "max":
            return states.masked_fill(weights == 0, -torch.inf).amax(1)
        case "mean_sqrt_len_tokens":
            return (states * weights).sum(1) / weights.sum(1).sqrt()
        case "weightedmean":
            weights = weights * torch.arange(1, states.shape[1] + 1, device=states.device)[:, None]
    return (states * weights).sum(1) / weights.sum(1)


def cosine_distances(dense: torch.Tensor, pruned: torch.Tensor) -> torch.Tensor:
    """1 - cosine of each pair of rows, float64 [members], from 0 to 2; NaN where an entry is not finite.

    As half the squared distance of the unit vectors, which is exactly 0 for equal rows. A vector of zeros has no
    direction: its distance is 0 to another such vector and 1 to any other.
    """
    before, after = dense.double(), pruned.double()
    lengths = [vectors.norm(dim=1, keepdim=True) for vectors in (before, after)]
    units = [
        torch.where(length == 0, 0.0, vectors / length)
        for vectors, length in zip((before, after), lengths, strict=True)
    ]
    distances = (units[0] - units[1]).square().sum(1) / 2
    one_is_zero = ((lengths[0] == 0) != (lengths[1] == 0)).squeeze(1)
    return torch.where(one_is_zero & ~distances.isnan(), 1.0, distances)

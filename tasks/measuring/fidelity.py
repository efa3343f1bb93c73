"""Pure. How far a compressed model's predictions are from its dense parent's on the same inputs; needs no labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tasks.examples.asking import NOT_ASKED
from tasks.examples.batches import Batch, asked_of

_LOGIT_ROWS = 512  # turned into float32 together


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """One example: a number for each prediction, of a text's tokens one after the other, or the one of a classifier."""

    kl: tuple[float, ...]
    """KL divergence from the dense to the compressed distribution, in nats; NaN where a logit is none."""
    flips: int | None
    """Predictions whose most likely answer changed; None where a logit is NaN."""


def shifts(dense: torch.Tensor, pruned: torch.Tensor, batch: Batch) -> tuple[Shift, ...]:
    """The members of a batch in order, from both models' logits: [members, labels], or [members, tokens, vocabulary]."""
    members = len(batch.positions)
    if dense.dim() == 2:
        dense, pruned, asked = dense[:, None], pruned[:, None], torch.ones(members, 1, dtype=torch.bool)
    else:
        asked = (asked_of(batch) != NOT_ASKED).cpu()
    step = max(1, _LOGIT_ROWS // members)
    starts = range(0, dense.shape[1], step)
    parts = [_compared(dense[:, start : start + step], pruned[:, start : start + step]) for start in starts]
    kl, changed = (torch.cat([part[kind] for part in parts], 1).cpu() for kind in (0, 1))
    return tuple(_shift(kl[row, ours], changed[row, ours]) for row, ours in enumerate(asked))


def _compared(dense: torch.Tensor, pruned: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL divergence and whether the argmax changed, [members, predictions]."""
    before, after = dense.float().log_softmax(-1), pruned.float().log_softmax(-1)
    chances = before.exp()
    terms = torch.where(chances == 0, torch.zeros_like(chances), chances * (before - after))
    return terms.sum(-1).clamp_min(0.0), before.argmax(-1) != after.argmax(-1)


def _shift(kl: torch.Tensor, changed: torch.Tensor) -> Shift:
    broken = bool(kl.isnan().any())
    return Shift(kl=tuple(kl.tolist()), flips=None if broken else int(changed.sum()))

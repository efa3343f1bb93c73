"""Pure. Cross entropies of tokens, in float32 whatever the logits' dtype, a few positions at a time."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from tasks.examples.asking import NOT_ASKED

_LOGIT_ROWS = 512  # turned into float32 together


def summed_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """float64 [members] on the CPU: each member's cross entropy, summed over the targets that are asked."""
    step = max(1, _LOGIT_ROWS // len(targets))
    losses = torch.zeros(len(targets), dtype=torch.float64, device=logits.device)
    for start in range(0, targets.shape[1], step):
        asked = targets[:, start : start + step]
        given = logits[:, start : start + asked.shape[1]].float()
        loss = cross_entropy(given.flatten(0, 1), asked.flatten(), ignore_index=NOT_ASKED, reduction="none")
        losses += loss.view_as(asked).sum(1, dtype=torch.float64)
    return losses.cpu()

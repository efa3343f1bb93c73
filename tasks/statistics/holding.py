"""Effects. Other weights in a module for a while: nothing is written to, and each comes back as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def holding(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """The module with other tensors under some names of its state, in every place that shares them."""
    state = module.state_dict(keep_vars=True)
    before = {name: state[name].data for name in tensors}
    try:
        for name, tensor in tensors.items():
            state[name].data = tensor
        yield
    finally:
        for name, tensor in before.items():
            state[name].data = tensor

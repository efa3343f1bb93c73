"""Effects. The model that a cut leaves: as an empty module, or put together in memory from slices of the dense one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from tasks.cutting.axes import with_changes
from tasks.cutting.cuts import Cut
from tasks.files.configs import ModelConfig
from tasks.loading.building import build, fill_buffers_
from tasks.loading.models import Model, assign_


def config_after(config: ModelConfig, cut: Cut) -> ModelConfig:
    """What config.json says of the smaller model."""
    return ModelConfig(
        architecture=config.architecture, values=with_changes(config.values, cut.changes), findings=()
    )


def smaller_module(config: ModelConfig, cut: Cut, dtype: torch.dtype) -> nn.Module:
    """The smaller model on the meta device."""
    return build(config_after(config, cut), dtype)[0]


def smaller_model(dense: Model, config: ModelConfig, cut: Cut) -> Model:
    """The smaller model as it would run from its files, on the dense one's device; its path and files are the dense one's."""
    parameter = next(dense.module.parameters())
    module, family, settings = build(config_after(config, cut), parameter.dtype)
    fill_buffers_(module, dense.checkpoint.bytes)
    state = dense.module.state_dict(keep_vars=True)
    shared: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        shared.setdefault(id(tensor), []).append(name)
    for names in shared.values():
        origin = cut.origin(names[0])
        assign_(module, names, cut.sliced(origin, state[origin].detach()))
    return replace(dense, module=module.eval().to(parameter.device), family=family, config=settings)

"""Tiny models of every family, and edits of their files."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from cases.architectures import ARCHITECTURES
from safetensors.torch import load_file, save_file
from torch import nn

from tasks.files.configs import ModelConfig
from tasks.loading.models import prunable_layers

NO_CONFIG = ModelConfig(architecture="", values={}, findings=())
"""Of a model that was made in memory."""

FAMILIES = dict(
    zip(
        ARCHITECTURES,
        (
            "causal_lm",
            "causal_lm",
            "text_classifier",
            "image_classifier",
            "image_classifier",
            "feature_classifier",
        ),
        strict=True,
    )
)


MIXTRAL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_local_experts": 3,
}


def edit_config(path: Path, **values) -> Path:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **values}))
    return path


def edit_weights(path: Path, change) -> Path:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "model.safetensors")
    return path


def save_with_transformers(path: Path, name: str, model_type: str, seed: int = 0, **values) -> nn.Module:
    torch.manual_seed(seed)
    module = getattr(transformers, name)(transformers.CONFIG_MAPPING[model_type](**values)).eval()
    module.save_pretrained(path)
    return module


def example(family: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    if family == "image_classifier":
        return {"pixel_values": torch.randn(2, 1, 8, 8, generator=generator)}
    return {"input_ids": torch.randint(0, 50, (2, 9), generator=generator)}


def names(module: nn.Module) -> list[str]:
    return [layer.name for layer in prunable_layers(module)]

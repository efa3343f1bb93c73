"""Programs of torch.export, made here from tiny models, and archives of them with something changed."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tasks.loading.models import load_afresh

GRAPH = "models/model.json"
WEIGHT_LIST = "data/weights/model_weights_config.json"
MAX_TOKENS = 128


class Answers(nn.Module):
    """A model of transformers that answers with a plain tensor, as programs must."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net


class AnswersTexts(Answers):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.net(input_ids=input_ids, attention_mask=attention_mask).logits


class AnswersPictures(Answers):
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.net(pixel_values=pixel_values).logits


class AnswersVectors(Answers):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.net(inputs)


def export(module: nn.Module, example: Mapping[str, torch.Tensor], path: Path, varies: bool = True) -> Path:
    """Writes a module in eval mode as a program whose batch, and of texts whose length, may vary."""
    batch, tokens = (
        torch.export.Dim("batch", min=1, max=1024),
        torch.export.Dim("tokens", min=2, max=MAX_TOKENS),
    )
    shapes = {
        name: {0: batch, 1: tokens} if value.dtype == torch.int64 else {0: batch}
        for name, value in example.items()
    }
    with torch.no_grad():
        program = torch.export.export(
            module.eval(), (), dict(example), dynamic_shapes=shapes if varies else None
        )
    torch.export.save(program, path)
    return path


def example_of(family: str, members: int = 2) -> dict[str, torch.Tensor]:
    """What a tiny model of this family reads."""
    draw = torch.Generator().manual_seed(members)
    if family in ("causal_lm", "text_classifier"):
        ids = torch.randint(0, 256, (members, 9), generator=draw)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if family == "image_classifier":
        return {"pixel_values": torch.randn(members, 1, 8, 8, generator=draw)}
    return {"inputs": torch.randn(members, 64, generator=draw)}


def program_of(model: Path, directory: Path, varies: bool = True) -> Path:
    """The program of a model directory, in a directory of its own with config and tokenizer."""
    loaded = load_afresh(model)
    kinds = {"pixel_values": AnswersPictures, "inputs": AnswersVectors, "input_ids": AnswersTexts}
    example = example_of(loaded.family, members=2 if varies else 1)
    module = kinds[next(iter(example))](loaded.module)
    directory.mkdir(parents=True)
    export(module, example, directory / "model.pt2", varies)
    config = json.loads((model / "config.json").read_text())
    kept = {
        key: config[key] for key in ("architectures", "id2label", "label2id", "pad_token_id") if key in config
    }
    (directory / "config.json").write_text(json.dumps(kept))
    for path in model.glob("tokenizer*"):
        shutil.copy(path, directory)
    return directory


def members_of(path: Path) -> dict[str, bytes]:
    """What is in an archive, without the folder that holds it all."""
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def archive_of(
    members: Mapping[str, bytes], *, compression: int = zipfile.ZIP_STORED, folder: str = "model"
) -> bytes:
    """An archive with these members, in this order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(f"{folder}/{name}", data)
    return buffer.getvalue()


def with_json(members: Mapping[str, bytes], name: str, change: Callable[[Any], None]) -> dict[str, bytes]:
    """The members with one document changed."""
    document = json.loads(members[name])
    change(document)
    return {**members, name: json.dumps(document).encode()}

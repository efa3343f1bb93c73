"""Effects. Writes an artifact once more, with the tensors that recovery changed; all others keep their bytes."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from tasks.loading.models import Model
from tasks.loading.weights import count_not_finite, open_checkpoint, write_like
from tasks.masks.selection import stored_as
from tasks.writing.recount import ArtifactWrong, digest_of


def rewrite(directory: Path, model: Model, changed: Sequence[str]) -> dict[str, str]:
    """Puts parameters and buffers of a module in place of the stored ones; stored name -> digest of its new bytes."""
    tensors = model.module.state_dict(keep_vars=True)
    new: dict[str, torch.Tensor] = {}
    for name in changed:
        stored = stored_as(model, name)
        if not stored:
            raise ArtifactWrong(f"{name} was changed, and is stored nowhere")
        value = tensors[name].detach().cpu().contiguous()
        if count_not_finite(value):
            raise ArtifactWrong(f"{name} is not finite any more")
        new |= dict.fromkeys(stored, value)

    def change(name: str) -> Iterable[memoryview] | None:
        return [new[name].reshape(-1).view(torch.uint8).numpy().data] if name in new else None

    aside = directory.with_name(f"{directory.name}.recovered")
    aside.mkdir()
    try:
        checkpoint = open_checkpoint(directory)
        write_like(checkpoint, aside, change)
        for file in checkpoint.files:
            (aside / file.path.name).replace(file.path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {name: digest_of(value) for name, value in new.items()}

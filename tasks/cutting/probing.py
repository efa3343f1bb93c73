"""Effects. A fixed input for any model, and what the model answers to it: to see whether two models compute the same."""

from __future__ import annotations

from typing import Any

import torch

from tasks.contract import BadInput
from tasks.cutting.symmetry import Answer
from tasks.examples.batches import Batch, logits_of
from tasks.examples.tokenizing import vocabulary_size
from tasks.files.configs import special_tokens
from tasks.loading.families import READS_FEATURES, READS_IMAGES, READS_TEXT
from tasks.loading.models import Model, load, load_afresh

SAME = 1e-3
"""By which answers may differ, relative to the largest, where they should be the same but for rounding."""
MEMBERS, TOKENS, SIDE = 2, 16, 32
"""Pictures or vectors, tokens of the one text, and the side of a picture where the model takes any."""


def in_float32(model: Model) -> Model:
    """The model of a directory in float32, where sums hardly depend on their order; a copy if it is stored otherwise."""
    stored = load(model.path)
    weights = (*stored.module.parameters(), *stored.module.buffers())
    if all(weight.dtype == torch.float32 for weight in weights if weight.is_floating_point()):
        return stored
    own = load_afresh(model.path)
    own.module.float()
    return own


def answer_of(model: Model, seed: int = 0) -> Answer:
    """Runs the model on an input drawn by the seed."""
    inputs = _inputs(model, seed)
    members = len(next(iter(inputs.values())))
    batch = Batch(positions=tuple(range(members)), inputs=inputs, lengths=(TOKENS,) * members)

    def answer() -> torch.Tensor:
        with torch.inference_mode():
            return logits_of(model, batch).double()

    return answer


def sound_answer(small: Model) -> torch.Tensor:
    """What a cut model answers; BadInput if its sizes are such that a kernel refuses them."""
    try:
        return answer_of(small)()
    except BadInput as error:
        raise BadInput(
            "the smaller model does not run",
            why=f"with these sizes, {error.why}",
            do="Cut less, or set prune.round_to to 8 or 16, so that sizes stay multiples of it.",
        ) from error


def runs(small: Model) -> bool:
    """Whether a cut model has sizes that every kernel takes."""
    try:
        sound_answer(small)
    except BadInput:
        return False
    return True


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """By how much two answers differ, relative to the largest number of the second."""
    return float((found - expected).abs().max()) / max(float(expected.abs().max()), 1e-12)


def _inputs(model: Model, seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    if model.family in READS_TEXT:
        special = special_tokens(model.config)
        usual = torch.tensor([token for token in range(vocabulary_size(model)) if token not in special])
        ids = usual[torch.randint(len(usual), (1, TOKENS), generator=draw)]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    name = "pixel_values" if model.family in READS_IMAGES else "inputs"
    return {name: torch.randn(MEMBERS, *_shape(model), generator=draw)}


def _shape(model: Model) -> tuple[int, ...]:
    if model.family in READS_FEATURES:
        return (model.config.input_size,)
    sides = [part.image_size for part in model.module.modules() if hasattr(part, "image_size")]
    side: Any = sides[0] if sides else SIDE
    height, width = side if isinstance(side, list | tuple) else (side, side)
    return (getattr(model.config, "num_channels", 3), height, width)

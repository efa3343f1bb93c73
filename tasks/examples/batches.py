"""Effects. Puts fitted examples side by side on the model's device, padded and masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tasks.contract import BadInput, raise_if_of_machine
from tasks.examples.asking import NOT_ASKED, Ids
from tasks.examples.embeddings import pooled
from tasks.examples.fitting import Fitted, Item
from tasks.examples.tokenizing import vocabulary_size
from tasks.files.configs import CONFIG
from tasks.loading.families import CAUSAL_LM, READS_IMAGES, READS_TEXT, answer_of
from tasks.loading.models import Model

BATCH_TOKENS = 4096
LOGIT_BYTES = 2**28
"""Of one batch: a large vocabulary makes the batches smaller."""
VALUES_PER_TOKEN = 256
"""So many numbers of an array count as one token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Items side by side."""

    positions: tuple[int, ...]
    """Of the members among the fitted items."""
    inputs: Mapping[str, torch.Tensor]
    """Keyword arguments of the module, [members, ...]; texts are padded on the right and masked."""
    lengths: tuple[int, ...]
    """Tokens of each member, without padding; 1 for an array."""
    labels: torch.Tensor | None = None
    """int64 [members], or float64 [members, numbers] for regression; None for language models."""
    targets: torch.Tensor | None = None
    """Of a language model that is asked for tokens: int64 [members, tokens], those that the logits of each position are to
    predict, or NOT_ASKED (see `tasks.examples.asking`)."""


def batches(
    fitted: Fitted, model: Model, batch_tokens: int | None = None, *, padded: bool = True
) -> Iterator[Batch]:
    """Every item once, the longest first, in batches of at most so many tokens with padding, or of one item.

    `padded=False` puts only items of the same length together, so that no batch has any padding.
    """
    limit = batch_tokens or batch_tokens_for(model)
    sizes = [_tokens(item) for item in fitted.items]
    ends_matter = model.family in ("text_classifier", "text_regressor")
    is_alone = ends_matter and _padding(model) is None
    members: list[int] = []
    for position in sorted(range(len(sizes)), key=lambda position: -sizes[position]):
        longest = sizes[members[0]] if members else 0
        is_full = longest * (len(members) + 1) > limit or is_alone
        if members and (is_full or not (padded or sizes[position] == longest)):
            yield _batch(fitted, model, members)
            members = []
        members.append(position)
    yield _batch(fitted, model, members)


def logits_of(model: Model, batch: Batch) -> torch.Tensor:
    """What the module answers, in its own dtype: [members, tokens, vocabulary], or [members, labels].

    Of a model without a head its pooled embeddings, float32 [members, features]. Errors: BadInput of a model that does
    not run.
    """
    answer = _answer(model, batch.inputs)
    if answer_of(model.family) == "embedding":
        return pooled(answer, batch.inputs.get("attention_mask"), model.pooling)
    logits: torch.Tensor = answer if isinstance(answer, torch.Tensor) else answer.logits
    return logits


def asked_of(batch: Batch) -> torch.Tensor:
    """The targets of a batch of texts that ask for tokens; ValueError for others, for which there is no loss."""
    if batch.targets is None:
        raise ValueError("the batch asks for no tokens")
    return batch.targets


def batch_tokens_for(model: Model) -> int:
    """How many tokens make a batch whose logits stay within LOGIT_BYTES."""
    if answer_of(model.family) != "tokens":
        return BATCH_TOKENS
    return max(1, min(BATCH_TOKENS, LOGIT_BYTES // (4 * vocabulary_size(model))))


def _answer(model: Model, inputs: Mapping[str, torch.Tensor]) -> Any:
    """What the module gives back; sizes that a config allows and that torch or transformers refuses are the model's fault."""
    without_cache = {"use_cache": False} if model.family == CAUSAL_LM else {}
    try:
        return model.module(**inputs, **without_cache)
    except (RuntimeError, ValueError, IndexError) as error:
        raise_if_of_machine(error)
        shapes = ", ".join(f"{name} of {list(tensor.shape)}" for name, tensor in inputs.items())
        raise BadInput(
            "the model does not run",
            why=f"given {shapes} it ends with {type(error).__name__}: {str(error)[:300]}",
            do="Look for sizes that do not go together, and run it in the library that it is from.",
            file=CONFIG,
        ) from error


def _tokens(item: Item) -> int:
    if item.content.dtype == np.int64:
        return len(item.content)
    return -(-item.content.size // VALUES_PER_TOKEN)


def _padding(model: Model) -> int | None:
    """The model's own padding token, by which decoders that classify find the end of a text."""
    padding = getattr(model.config, "pad_token_id", None)
    return padding if isinstance(padding, int) and 0 <= padding < vocabulary_size(model) else None


def _batch(fitted: Fitted, model: Model, members: Sequence[int]) -> Batch:
    items = [fitted.items[position] for position in members]
    weight = next(model.module.parameters())
    is_text = model.family in READS_TEXT
    inputs = _text_inputs(items, model) if is_text else _array_inputs(items, model, weight.dtype)
    labels = None if items[0].label is None else _labels(items)
    targets = None if items[0].targets is None else _targets(items)
    return Batch(
        positions=tuple(members),
        inputs={name: tensor.to(weight.device) for name, tensor in inputs.items()},
        lengths=tuple(len(item.content) if is_text else 1 for item in items),
        labels=None if labels is None else labels.to(weight.device),
        targets=None if targets is None else targets.to(weight.device),
    )


def _labels(items: Sequence[Item]) -> torch.Tensor:
    labels = [item.label for item in items]
    return torch.tensor(labels, dtype=torch.float64 if isinstance(labels[0], tuple) else torch.int64)


def _array_inputs(items: Sequence[Item], model: Model, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    name = "pixel_values" if model.family in READS_IMAGES else "inputs"
    return {name: torch.from_numpy(np.stack([item.content for item in items])).to(dtype)}


def _text_inputs(items: Sequence[Item], model: Model) -> dict[str, torch.Tensor]:
    contents = [item.content for item in items]
    ids = _side_by_side(contents, _padding(model) or 0)
    mask = _side_by_side([np.ones_like(content) for content in contents], 0)
    return {"input_ids": ids, "attention_mask": mask}


def _targets(items: Sequence[Item]) -> torch.Tensor:
    return _side_by_side([item.targets for item in items if item.targets is not None], NOT_ASKED)


def _side_by_side(rows: Sequence[Ids], filling: int) -> torch.Tensor:
    """int64 [rows, the longest one's length], filled up on the right."""
    result = np.full((len(rows), max(map(len, rows))), filling, np.int64)
    for row, values in zip(result, rows, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(result)

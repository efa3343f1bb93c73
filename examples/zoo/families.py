"""Effects. The kinds of model in the zoo: how each is built, fed, saved and scored."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import corpora
import torch
import transformers
from passages import SECTION_OF
from safetensors.torch import load_file, save_file
from settings import BYTE_TOKENS, PASSAGE_BYTES, SECTION_BYTES, SECTIONS, START
from tokenizers import Tokenizer
from tokenizing import byte_tokenizer, save_tokenizer, word_tokenizer
from torch import Tensor, nn

from tasks.loading.architectures import MLPForClassification

Batch = Mapping[str, Tensor]
Score = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What training needs to know about a kind of model."""

    draw: Callable[[int, torch.Generator], Batch]
    """Batch size, source of randomness -> a training batch, labels included."""
    test: Callable[[], Batch]
    """The whole test split as one batch."""
    score: Callable[[Tensor, Batch], Score]
    """Logits of the test batch -> metric, value, and the value of guessing (`chance`)."""
    tokenizer: Callable[[], Tokenizer] | None = None


def build(architecture: str, config: Mapping[str, Any]) -> nn.Module:
    """A module with untrained weights."""
    if architecture == "MLPForClassification":
        return MLPForClassification(config)
    model_class = getattr(transformers, architecture)
    module: nn.Module = model_class(model_class.config_class(**config))
    return module


def logits(module: nn.Module, batch: Batch) -> Tensor:
    """What the module says of a batch: [batch, labels], or [batch, length, tokens]."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    if isinstance(module, MLPForClassification):
        return module(**inputs)  # type: ignore[no-any-return]
    return module(**inputs).logits  # type: ignore[no-any-return]


def loss(module: nn.Module, batch: Batch) -> Tensor:
    """Mean cross entropy of the labels; a language model's labels are the tokens that follow."""
    said = logits(module, batch)
    return nn.functional.cross_entropy(said.flatten(0, -2), batch["labels"].flatten())


def save(module: nn.Module, architecture: str, config: Mapping[str, Any], directory: Path) -> None:
    """Write the model, and its tokenizer if it reads text, in Hugging Face layout."""
    if isinstance(module, MLPForClassification):
        directory.mkdir(parents=True)
        save_file(module.state_dict(), directory / "model.safetensors", metadata={"format": "pt"})
        described = {"architectures": [architecture], "model_type": "mlp", **config}
        (directory / "config.json").write_text(json.dumps(described, indent=2) + "\n")
    else:
        module.save_pretrained(directory)  # type: ignore[operator]
    if (tokenizer := FAMILIES[architecture].tokenizer) is not None:
        save_tokenizer(tokenizer(), config["max_position_embeddings"], directory)


def load(architecture: str, directory: Path) -> nn.Module:
    """The model as its users would load it."""
    if architecture == "MLPForClassification":
        module = MLPForClassification(json.loads((directory / "config.json").read_text()))
        module.load_state_dict(load_file(directory / "model.safetensors"))
        return module
    return getattr(transformers, architecture).from_pretrained(directory, local_files_only=True)  # type: ignore[no-any-return]


@cache
def _manual_bytes() -> Tensor:
    text = "".join("".join(chunks) for chunks in corpora.manual().training.values())
    return torch.tensor(list(text.encode()))


def _draw_passages(size: int, source: torch.Generator) -> Batch:
    text = _manual_bytes()
    starts = torch.randint(0, len(text) - PASSAGE_BYTES, (size,), generator=source)
    return _following(torch.stack([text[start : start + PASSAGE_BYTES] for start in starts.tolist()]))


def _test_passages() -> Batch:
    texts = [row.text for row in corpora.manual().passages if row.split == "test"]
    return _following(torch.tensor([list(text.encode()) for text in texts]))


def _following(passages: Tensor) -> Batch:
    """Each byte is predicted from `<s>` and those before it."""
    start = torch.full((len(passages), 1), START)
    return {"input_ids": torch.cat([start, passages[:, :-1]], dim=1), "labels": passages}


def _score_perplexity(said: Tensor, batch: Batch) -> Score:
    value = nn.functional.cross_entropy(said.double().flatten(0, 1), batch["labels"].flatten()).exp().item()
    unigram, bigram = _count_perplexities(_manual_bytes(), batch["labels"])
    return {"metric": "perplexity", "value": value, "chance": unigram, "bigram": bigram}


def _count_perplexities(text: Tensor, passages: Tensor) -> tuple[float, float]:
    """Of guessing each byte from how often it occurs in `text`, and how often after the byte before it."""
    single = torch.bincount(text, minlength=BYTE_TOKENS).double() + 1
    pairs = torch.bincount(text[:-1] * BYTE_TOKENS + text[1:], minlength=BYTE_TOKENS**2).double()
    after = pairs.view(BYTE_TOKENS, BYTE_TOKENS) + 10 * single / single.sum()
    unigram = (single / single.sum()).log()[passages]
    bigram = (after / after.sum(1, keepdim=True)).log()[passages[:, :-1], passages[:, 1:]]
    return math.exp(-unigram.mean().item()), math.exp(-bigram.mean().item())


@cache
def _word_tokenizer() -> Tokenizer:
    return word_tokenizer(text for chunks in corpora.sections().training.values() for text in chunks)


@cache
def _section_chunks() -> list[tuple[str, int]]:
    training = corpora.sections().training
    return [
        (text, SECTIONS.index(SECTION_OF[topic])) for topic, chunks in training.items() for text in chunks
    ]


def _draw_sections(size: int, source: torch.Generator) -> Batch:
    chunks = _section_chunks()
    places = torch.randint(0, len(chunks), (size,), generator=source).tolist()
    starts = torch.randint(0, SECTION_BYTES, (size,), generator=source).tolist()
    texts = [
        chunks[place][0][start : start + SECTION_BYTES] for place, start in zip(places, starts, strict=True)
    ]
    return _encoded(texts, [chunks[place][1] for place in places])


def _test_sections() -> Batch:
    rows = [row for row in corpora.sections().passages if row.split == "test"]
    return _encoded([row.text for row in rows], [SECTIONS.index(SECTION_OF[row.topic]) for row in rows])


def _encoded(texts: list[str], labels: list[int]) -> Batch:
    tokens = [torch.tensor(encoding.ids) for encoding in _word_tokenizer().encode_batch(texts)]
    padded = nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=0)
    return {"input_ids": padded, "attention_mask": (padded != 0).long(), "labels": torch.tensor(labels)}


def _digits(name: str, split: str) -> Batch:
    pictures, labels, splits = corpora.digits()
    chosen = splits == split
    inputs = corpora.enlarged(pictures) if name == "pixel_values" else pictures.reshape(len(pictures), -1)
    return {name: torch.from_numpy(inputs[chosen]), "labels": torch.from_numpy(labels[chosen])}


_cached_digits = cache(_digits)


def _drawn_digits(name: str) -> Callable[[int, torch.Generator], Batch]:
    def draw(size: int, source: torch.Generator) -> Batch:
        batch = _cached_digits(name, "train")
        chosen = torch.randint(0, len(batch["labels"]), (size,), generator=source)
        return {key: value[chosen] for key, value in batch.items()}

    return draw


def _score_accuracy(said: Tensor, batch: Batch) -> Score:
    labels = batch["labels"].tolist()
    value = (said.argmax(-1) == batch["labels"]).double().mean().item()
    return {
        "metric": "accuracy",
        "value": value,
        "chance": Counter(labels).most_common(1)[0][1] / len(labels),
    }


def _digit_family(name: str) -> Family:
    return Family(draw=_drawn_digits(name), test=lambda: _cached_digits(name, "test"), score=_score_accuracy)


FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(
        draw=_draw_passages, test=_test_passages, score=_score_perplexity, tokenizer=byte_tokenizer
    ),
    "BertForSequenceClassification": Family(
        draw=_draw_sections, test=_test_sections, score=_score_accuracy, tokenizer=_word_tokenizer
    ),
    "ViTForImageClassification": _digit_family("pixel_values"),
    "ResNetForImageClassification": _digit_family("pixel_values"),
    "MLPForClassification": _digit_family("inputs"),
}

"""Pure. What the zoo holds: each model, its versions, and how each is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DATA_JOB = "data"  # next to the models: the files that they are calibrated and tested with
BYTE_TOKENS = 258  # every byte, <pad>, <s>
PAD, START = 256, 257
PASSAGE_BYTES = 127  # <s> and a passage fill a context of 128
CONTEXT = 128
SECTION_BYTES = 254
SECTION_CONTEXT = 256  # no passage of so few bytes has more tokens
SECTION_TOKENS = 1024
SECTIONS = ("objects", "statements", "strings")
IMAGE_SIDE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One version of a model."""

    version: str
    config: Mapping[str, Any]
    steps: int
    batch: int
    rate: float
    """Highest learning rate; it rises over the first steps and falls along a cosine."""
    seed: int
    decay: float = 0.0
    gain_rate: float = 1.0
    """Norm gains and biases learn this many times faster than matrices."""
    gain_spread: float = 0.0
    """Standard deviation of the logarithm of the initial norm gains."""
    resumes: bool = False
    """Starts from the weights of the release before it."""
    dtype: str = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One model, all of whose versions one process trains."""

    model: str
    architecture: str
    releases: tuple[Release, ...]


def _llama(hidden: int, intermediate: int, layers: int, heads: int, tied: bool) -> Mapping[str, Any]:
    return {
        "vocab_size": BYTE_TOKENS,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": tied,
        "pad_token_id": PAD,
        "bos_token_id": START,
        "eos_token_id": None,
        "initializer_range": 0.06,
    }


_SMALL = _llama(64, 192, 3, 2, tied=True)
_MEDIUM = _llama(96, 256, 4, 3, tied=False)
_SPREAD: Mapping[str, Any] = {"gain_rate": 10.0, "gain_spread": 0.8}
"""Large models have input features of very unequal size. A small one grows them when its gains may move fast."""

_DIGITS = {"num_labels": 10}
_PICTURES = {**_DIGITS, "num_channels": 1}

JOBS = (
    Job(
        model="byte-llama-m",
        architecture="LlamaForCausalLM",
        releases=(
            Release(
                version="1",
                config=_MEDIUM,
                steps=300,
                batch=12,
                rate=6e-3,
                seed=1,
                dtype="bfloat16",
                **_SPREAD,
            ),
        ),
    ),
    Job(
        model="byte-llama-s",
        architecture="LlamaForCausalLM",
        releases=(
            Release(version="1", config=_SMALL, steps=400, batch=8, rate=6e-3, seed=1, **_SPREAD),
            Release(
                version="2",
                config=_SMALL,
                steps=200,
                batch=8,
                rate=3e-3,
                seed=2,
                resumes=True,
                gain_rate=10.0,
            ),
        ),
    ),
    Job(
        model="section-bert",
        architecture="BertForSequenceClassification",
        releases=(
            Release(
                version="1",
                config={
                    "vocab_size": SECTION_TOKENS,
                    "hidden_size": 64,
                    "intermediate_size": 128,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "max_position_embeddings": SECTION_CONTEXT,
                    "type_vocab_size": 1,
                    "pad_token_id": 0,
                    "hidden_dropout_prob": 0.2,
                    "initializer_range": 0.06,
                    "id2label": dict(enumerate(SECTIONS)),
                    "label2id": {name: index for index, name in enumerate(SECTIONS)},
                },
                steps=300,
                batch=12,
                rate=3e-3,
                seed=1,
                decay=0.05,
            ),
        ),
    ),
    Job(
        model="digit-vit",
        architecture="ViTForImageClassification",
        releases=(
            Release(
                version="1",
                config={
                    **_PICTURES,
                    "image_size": IMAGE_SIDE,
                    "patch_size": 4,
                    "hidden_size": 48,
                    "intermediate_size": 96,
                    "num_hidden_layers": 3,
                    "num_attention_heads": 3,
                    "hidden_dropout_prob": 0.1,
                    "initializer_range": 0.06,
                },
                steps=600,
                batch=32,
                rate=3e-3,
                seed=1,
                decay=0.05,
            ),
        ),
    ),
    Job(
        model="digit-resnet",
        architecture="ResNetForImageClassification",
        releases=tuple(
            Release(
                version=version,
                config={
                    **_PICTURES,
                    "embedding_size": 16,
                    "hidden_sizes": [16, 32],
                    "depths": [depth, depth],
                    "layer_type": "basic",
                },
                steps=200,
                batch=32,
                rate=3e-3,
                seed=depth,
                decay=0.01,
            )
            for version, depth in (("1", 1), ("2", 2))
        ),
    ),
    Job(
        model="digit-mlp",
        architecture="MLPForClassification",
        releases=tuple(
            Release(
                version=version,
                config={**_DIGITS, "input_size": 64, "hidden_sizes": hidden, "activation": activation},
                steps=600,
                batch=64,
                rate=3e-3,
                seed=seed,
                decay=0.01,
            )
            for seed, (version, hidden, activation) in enumerate(
                [("1", [64], "relu"), ("2", [96, 48], "gelu")], start=1
            )
        ),
    ),
)
"""Longest first, so that two processes end together."""

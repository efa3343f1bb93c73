"""Effects. Models and data for every test: tiny ones, made in a moment, and the trained zoo, made once."""

from __future__ import annotations

import importlib
import json
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cases.order import SLOWEST

REPOSITORY = Path(__file__).resolve().parent.parent

SECTIONS = ("alpha", "beta", "gamma")
VOCABULARY = 258  # every byte, <pad>, <s>

# The spread of the weights is wide, so that pruning an untrained model changes its outputs visibly.
_TRANSFORMER: Mapping[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.2,
}
_TEXT: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "pad_token_id": 256,
    "bos_token_id": 257,
    "eos_token_id": None,
}
_TINY: Mapping[str, Mapping[str, Any]] = {
    "LlamaForCausalLM": {
        **_TRANSFORMER,
        **_TEXT,
        "num_key_value_heads": 1,
        "tie_word_embeddings": False,
    },
    "MixtralForCausalLM": {
        **_TRANSFORMER,
        **_TEXT,
        "num_key_value_heads": 1,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "tie_word_embeddings": False,
    },
    "GPT2LMHeadModel": {
        "vocab_size": VOCABULARY,
        "n_positions": 128,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "initializer_range": 0.2,
        "bos_token_id": 257,
        "eos_token_id": 257,
    },
    "BertForSequenceClassification": {
        **_TRANSFORMER,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 128,
        "pad_token_id": 256,
        "type_vocab_size": 1,
        "id2label": dict(enumerate(SECTIONS)),
        "label2id": {name: index for index, name in enumerate(SECTIONS)},
    },
    "ViTForImageClassification": {
        **_TRANSFORMER,
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 1,
        "num_labels": 10,
    },
    "ResNetForImageClassification": {
        "num_channels": 1,
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "layer_type": "basic",
        "num_labels": 10,
    },
    "MLPForClassification": {
        "input_size": 64,
        "hidden_sizes": [32, 16],
        "num_labels": 10,
        "activation": "relu",
    },
    "MLPForRegression": {
        "input_size": 64,
        "hidden_sizes": [32, 16],
        "num_labels": 1,
        "activation": "relu",
    },
    "BertModel": {
        **_TRANSFORMER,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 128,
        "pad_token_id": 256,
        "type_vocab_size": 1,
    },
    "ViTModel": {**_TRANSFORMER, "image_size": 8, "patch_size": 4, "num_channels": 1},
    "ResNetModel": {
        "num_channels": 1,
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "layer_type": "basic",
    },
}


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Path]:
    """The function `make_tiny_model`."""
    return make_tiny_model


@pytest.fixture(scope="session")
def tiny_data() -> Callable[..., dict[str, Path]]:
    """The function `make_tiny_data`."""
    return make_tiny_data


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest files first; and whichever test is the first to ask for the zoo has to wait until it is trained."""
    rank = {name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(SLOWEST)))
    for item in items:
        if "zoo" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def from_examples() -> Callable[[str], ModuleType]:
    """Imports a module of `examples/` or `examples/zoo/` by name; those are scripts, in no package."""
    sys.path += [str(REPOSITORY / "examples" / "zoo"), str(REPOSITORY / "examples")]
    return importlib.import_module


@pytest.fixture(scope="session")
def zoo() -> Path:
    """The trained zoo, cached between runs: `models/<name>/<version>/`, `data/`, `scores.json`. Read only."""
    directory = REPOSITORY / ".cache" / "zoo"
    script = REPOSITORY / "examples" / "zoo" / "train.py"
    subprocess.run([sys.executable, str(script), str(directory)], check=True, timeout=1800)
    return directory


def make_tiny_model(
    directory: Path,
    architecture: str = "LlamaForCausalLM",
    seed: int = 0,
    dtype: str = "float32",
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Write an untrained model in Hugging Face layout, with a tokenizer if it reads text; gives `directory`.

    `config` overrides single keys of the tiny configuration. The same arguments give the same bytes.
    """
    import torch
    from safetensors.torch import save_file

    settings = {**_TINY[architecture], **(config or {})}
    directory.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if architecture.startswith("MLP"):
            module, described = _build_own(architecture, settings)
        else:
            module, described = _build_of_transformers(architecture, settings)
    module = module.to(getattr(torch, dtype))
    tied = (
        set(getattr(module, "_tied_weights_keys", None) or ())
        if settings.get("tie_word_embeddings")
        else set()
    )
    if architecture == "GPT2LMHeadModel":
        tied = {"lm_head.weight"}
    tensors = {name: value.contiguous() for name, value in module.state_dict().items() if name not in tied}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    described = {**described, "architectures": [architecture], "dtype": dtype}
    (directory / "config.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")
    if "vocab_size" in settings:
        write_byte_tokenizer(directory, max_length=128)
    return directory


def make_tiny_data(directory: Path, examples: int = 12, seed: int = 0) -> dict[str, Path]:
    """Write three small datasets that fit the tiny models, each with `examples` rows in either split.

    `text` (JSON lines: text, topic), `sections` (JSON lines: text, label as text, topic) and `arrays`
    (Parquet: 64 inputs, label as a number, digit); the splits are `calibration` and `test`.

    Gives name -> file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    splits = ["calibration"] * examples + ["test"] * examples
    labels = [index % len(SECTIONS) for index in range(len(splits))]
    texts = [_sentence(draw, SECTIONS[label]) for label in labels]
    files = {name: directory / name for name in ("text.jsonl", "sections.jsonl", "arrays.parquet")}
    columns = list(zip(texts, labels, splits, strict=True))
    _write_lines(
        files["text.jsonl"],
        [{"text": text, "split": split, "topic": SECTIONS[label]} for text, label, split in columns],
    )
    _write_lines(
        files["sections.jsonl"],
        [
            {
                "text": text,
                "label": SECTIONS[label],
                "split": split,
                "topic": "long" if len(text) > 60 else "short",
            }
            for text, label, split in columns
        ],
    )
    digits = [index % 10 for index in range(len(splits))]
    table = pa.table(
        {
            "inputs": pa.array([_picture(draw, digit) for digit in digits], pa.list_(pa.float32())),
            "label": pa.array(digits, pa.int64()),
            "split": splits,
            "digit": [str(digit) for digit in digits],
        }
    )
    pq.write_table(table, files["arrays.parquet"])
    return {path.stem: path for path in files.values()}


def write_byte_tokenizer(directory: Path, max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json: one token a byte, no merges, `<s>` in front."""
    special = {"<pad>": 256, "<s>": 257}
    added = [
        {
            "id": number,
            "content": name,
            "special": True,
            "normalized": False,
            "lstrip": False,
            "rstrip": False,
            "single_word": False,
        }
        for name, number in special.items()
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": False,
            "use_regex": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [257], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": False,
            "use_regex": False,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {**_byte_letters(), **special},
            "merges": [],
        },
    }
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _byte_letters() -> dict[str, int]:
    """The letter by which byte-level tokenizers write each byte -> the byte, which is its token."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {chr(byte): byte for byte in shown}
    return letters | {chr(256 + index): byte for index, byte in enumerate(hidden)}


def _build_own(architecture: str, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    from tasks.loading.architectures import ARCHITECTURES

    return ARCHITECTURES[architecture].build(settings).eval(), dict(settings)


def _build_of_transformers(architecture: str, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    import transformers

    model_class = getattr(transformers, architecture)
    module = model_class(model_class.config_class(**settings)).eval()
    return module, module.config.to_dict()


def _sentence(draw: random.Random, section: str) -> str:
    words = [section, "weights", "of", "layers", "fall", "where", "nothing", "leans", "on", "them"]
    return " ".join(draw.choice(words) for _ in range(draw.randint(8, 16)))


def _picture(draw: random.Random, digit: int) -> list[float]:
    return [min(1.0, draw.random() * 0.3 + (0.7 if pixel % 10 == digit else 0.0)) for pixel in range(64)]


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

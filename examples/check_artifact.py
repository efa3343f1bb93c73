"""Effects. `python examples/check_artifact.py MODEL DATA`: what a user of a model sees, without prunefleet.

Shares no code with prunefleet: plain transformers loads the model (plain torch the MLP), and the formulas are
written out here. Prints JSON: perplexity or accuracy over all examples and each slice, zeros and parameters.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import Tensor, nn

Example = Mapping[str, Any]
Outcome = tuple[float, int]
"""Of one example: nats and predicted tokens, or 1 or 0 for right or wrong and 1."""

BATCH = 32
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Measure a model on a data file with nothing of prunefleet.")
    parser.add_argument("model", type=Path, help="directory with config.json and *.safetensors")
    parser.add_argument("data", type=Path, help="JSON lines or Parquet")
    parser.add_argument("--split", default="test", help="rows whose `split` is this (default: test)")
    parser.add_argument("--slices", default="", help="columns to measure by, separated by commas")
    parser.add_argument("--shape", default="", help="shape of one example's inputs, such as 1,16,16")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    shape = [int(size) for size in options.shape.split(",") if size]
    slices = [name for name in options.slices.split(",") if name]
    print(json.dumps(check(options.model, options.data, options.split, slices, shape), indent=2))


def check(
    model: Path, data: Path, split: str, slices: Sequence[str], shape: Sequence[int] = ()
) -> dict[str, Any]:
    """Quality over all rows of the split and by each value of the slice columns, and what the files hold."""
    config = json.loads((model / "config.json").read_text())
    architecture = config["architectures"][0]
    examples = [row for row in _rows(data) if row.get("split", split) == split]
    if not examples:
        raise SystemExit(f"{data}: no rows of split {split!r}")
    language_model = architecture.endswith("CausalLM") or architecture.endswith("LMHeadModel")
    summary = _perplexity if language_model else _accuracy
    with torch.inference_mode():
        outcomes = _outcomes(model, config, architecture, examples, shape)
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for example, outcome in zip(examples, outcomes, strict=True):
        groups["all"].append(outcome)
        for column in slices:
            groups[f"{column}={example[column]}"].append(outcome)
    return {
        "architecture": architecture,
        "metric": summary.__name__.removeprefix("_"),
        "values": {name: summary(members) for name, members in sorted(groups.items())},
        "samples": {name: len(members) for name, members in sorted(groups.items())},
        **_counts(model),
    }


def _perplexity(outcomes: Sequence[Outcome]) -> float:
    return math.exp(sum(nats for nats, _ in outcomes) / sum(tokens for _, tokens in outcomes))


def _accuracy(outcomes: Sequence[Outcome]) -> float:
    return sum(right for right, _ in outcomes) / len(outcomes)


def _rows(path: Path) -> list[Example]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows: list[Example] = pq.read_table(path).to_pylist()
        return rows
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _outcomes(
    model: Path,
    config: Mapping[str, Any],
    architecture: str,
    examples: Sequence[Example],
    shape: Sequence[int],
) -> list[Outcome]:
    """One for each example, in order."""
    if architecture == "MLPForClassification":
        return list(_right_or_wrong(_mlp(model, config), examples, _stack(shape), config))
    module = getattr(transformers, architecture).from_pretrained(model, local_files_only=True).eval()
    if "inputs" in examples[0]:
        pictures = _stack(shape)
        return list(
            _right_or_wrong(
                lambda batch: module(pixel_values=batch.to(module.dtype)).logits, examples, pictures, config
            )
        )
    outcomes: dict[int, Outcome] = {}
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, local_files_only=True)
    tokens = [tokenizer(example["text"])["input_ids"][: _context(config)] for example in examples]
    for batch in _of_one_length(tokens):
        inputs = torch.tensor([tokens[place] for place in batch])
        for place, ids, logits in zip(batch, inputs, module(input_ids=inputs).logits.float(), strict=True):
            if logits.dim() == 1:
                outcomes[place] = float(logits.argmax().item() == _label(examples[place], config)), 1
            else:
                nats = nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="sum")
                outcomes[place] = nats.item(), len(ids) - 1
    return [outcomes[place] for place in range(len(examples))]


def _of_one_length(tokens: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Places of texts with as many tokens each, so that no batch needs padding."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, ids in enumerate(tokens):
        places[len(ids)].append(place)
    for members in places.values():
        for start in range(0, len(members), BATCH):
            yield members[start : start + BATCH]


def _mlp(model: Path, config: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    """config.json and model.safetensors -> logits, as the formula says."""
    activation = {"relu": torch.relu, "gelu": nn.functional.gelu}[config["activation"]]
    with safe_open(model / "model.safetensors", framework="pt") as tensors:
        weights = {name: tensors.get_tensor(name).float() for name in tensors.keys()}  # noqa: SIM118
    last = len(config["hidden_sizes"])

    def logits(inputs: Tensor) -> Tensor:
        for index in range(last + 1):
            inputs = inputs @ weights[f"layers.{index}.weight"].T + weights[f"layers.{index}.bias"]
            inputs = activation(inputs) if index < last else inputs
        return inputs

    return logits


def _stack(shape: Sequence[int]) -> Callable[[Sequence[Example]], Tensor]:
    def stacked(examples: Sequence[Example]) -> Tensor:
        flat = torch.tensor([example["inputs"] for example in examples], dtype=torch.float32)
        return flat.reshape(len(examples), *(shape or [-1]))

    return stacked


def _right_or_wrong(
    logits: Callable[[Tensor], Tensor],
    examples: Sequence[Example],
    stacked: Callable[[Sequence[Example]], Tensor],
    config: Mapping[str, Any],
) -> Iterator[Outcome]:
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        for example, answer in zip(batch, logits(stacked(batch)).argmax(-1).tolist(), strict=True):
            yield float(answer == _label(example, config)), 1


def _label(example: Example, config: Mapping[str, Any]) -> int:
    label = example["label"]
    return int(config["label2id"][label] if isinstance(label, str) else label)


def _context(config: Mapping[str, Any]) -> int:
    return int(config.get("max_position_embeddings") or config["n_positions"])


def _counts(model: Path) -> dict[str, Any]:
    """Parameters, zeros and bytes, over all weight files; what batch norm counts is no parameter."""
    files = sorted(model.glob("*.safetensors"))
    parameters = zeros = 0
    matrices: dict[str, float] = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                if name.endswith(BUFFERS):
                    continue
                tensor = tensors.get_tensor(name)
                empty = tensor.numel() - int(torch.count_nonzero(tensor))
                parameters, zeros = parameters + tensor.numel(), zeros + empty
                if tensor.dim() >= 2 and empty:
                    matrices[name] = empty / tensor.numel()
    return {
        "parameters": parameters,
        "zeros": zeros,
        "share_of_zeros": matrices,
        "weight_bytes": sum(file.stat().st_size for file in files),
    }


if __name__ == "__main__":
    main()

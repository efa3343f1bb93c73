"""The checker that shares no code with prunefleet: its numbers against formulas written out once more."""

from __future__ import annotations

import ast
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "check_artifact.py"


@pytest.fixture(scope="module")
def check(from_examples):
    return from_examples("check_artifact").check


def rows_of(path: Path, split: str) -> list[dict]:
    return [row for row in map(json.loads, path.read_text().splitlines()) if row["split"] == split]


def test_it_imports_nothing_of_prunefleet():
    imported = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text())):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert not imported & {"tasks", "orchestrator", "ray", "families", "settings"}


def test_perplexity_is_that_of_every_token_after_the_first(check, tiny_model, tiny_data, tmp_path):
    directory, data = tiny_model(tmp_path / "m"), tiny_data(tmp_path / "d", examples=4)["text"]
    model = transformers.LlamaForCausalLM.from_pretrained(directory).eval()
    nats = tokens = 0.0
    for row in rows_of(data, "test"):
        ids = [257, *row["text"].encode()]
        with torch.no_grad():
            probabilities = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        nats -= sum(probabilities[place, ids[place + 1]].item() for place in range(len(ids) - 1))
        tokens += len(ids) - 1
    found = check(directory, data, "test", [])
    assert found["metric"] == "perplexity"
    assert found["values"] == {"all": pytest.approx(math.exp(nats / tokens), rel=1e-5)}


def test_long_text_is_cut_at_the_models_context(check, tiny_model, tmp_path):
    directory = tiny_model(tmp_path / "m", config={"max_position_embeddings": 16})
    for name, text in (("long", "x" * 500), ("short", "x" * 15)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": text}) + "\n")
    values = [
        check(directory, tmp_path / f"{name}.jsonl", "test", [])["values"] for name in ("long", "short")
    ]
    assert values[0] == values[1]


@pytest.mark.parametrize("architecture", ["ViTForImageClassification", "ResNetForImageClassification"])
def test_accuracy_of_pictures_is_the_share_of_right_answers(
    check, tiny_model, tiny_data, tmp_path, architecture
):
    import pyarrow.parquet as pq

    directory, data = tiny_model(tmp_path / "m", architecture), tiny_data(tmp_path / "d", 40)["arrays"]
    model = getattr(transformers, architecture).from_pretrained(directory).eval()
    rows = [row for row in pq.read_table(data).to_pylist() if row["split"] == "test"]
    with torch.no_grad():
        answers = [
            model(pixel_values=torch.tensor(row["inputs"]).view(1, 1, 8, 8)).logits.argmax().item()
            for row in rows
        ]
    expected = sum(answer == row["label"] for answer, row in zip(answers, rows, strict=True)) / len(rows)
    assert check(directory, data, "test", [], [1, 8, 8])["values"]["all"] == expected


def test_accuracy_of_text_reads_labels_by_name(check, tiny_model, tiny_data, tmp_path):
    directory = tiny_model(tmp_path / "m", "BertForSequenceClassification")
    data = tiny_data(tmp_path / "d", 9)["sections"]
    model = transformers.BertForSequenceClassification.from_pretrained(directory).eval()
    right = []
    for row in rows_of(data, "test"):
        with torch.no_grad():
            answer = model(input_ids=torch.tensor([[257, *row["text"].encode()]])).logits.argmax().item()
        right.append(model.config.id2label[answer] == row["label"])
    assert check(directory, data, "test", [])["values"]["all"] == sum(right) / len(right)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_mlp_written_out_here_is_that_of_the_project(check, tiny_model, tiny_data, tmp_path, activation):
    import pyarrow.parquet as pq

    from tasks.loading.architectures import MLPForClassification

    directory = tiny_model(tmp_path / "m", "MLPForClassification", config={"activation": activation})
    data = tiny_data(tmp_path / "d", 70)["arrays"]
    module = MLPForClassification(json.loads((directory / "config.json").read_text()))
    module.load_state_dict(load_file(directory / "model.safetensors"))
    rows = [row for row in pq.read_table(data).to_pylist() if row["split"] == "test"]
    answers = module(torch.tensor([row["inputs"] for row in rows])).argmax(-1).tolist()
    expected = sum(answer == row["label"] for answer, row in zip(answers, rows, strict=True)) / len(rows)
    assert check(directory, data, "test", [])["values"]["all"] == expected


def test_slices_are_parts_of_the_whole(check, tiny_model, tiny_data, tmp_path):
    directory, data = (
        tiny_model(tmp_path / "m", "MLPForClassification"),
        tiny_data(tmp_path / "d", 30)["arrays"],
    )
    found = check(directory, data, "test", ["digit"])
    parts = {name: value for name, value in found["values"].items() if name != "all"}
    assert set(parts) == {f"digit={digit}" for digit in range(10)}
    assert sum(found["samples"][name] for name in parts) == found["samples"]["all"] == 30
    right = sum(value * found["samples"][name] for name, value in parts.items())
    assert right / 30 == pytest.approx(found["values"]["all"])


def test_zeros_are_counted_in_all_files_and_by_tensor(check, tiny_model, tiny_data, tmp_path):
    directory, data = tiny_model(tmp_path / "m", "MLPForClassification"), tiny_data(tmp_path / "d")["arrays"]
    tensors = load_file(directory / "model.safetensors")
    tensors["layers.0.weight"].view(-1)[:512] = -0.0
    tensors["layers.1.weight"].view(-1)[:5] = 0.0
    save_file(tensors, directory / "model.safetensors")
    found = check(directory, data, "test", [])
    assert found["zeros"] == 517
    assert found["share_of_zeros"] == {"layers.0.weight": 512 / 2048, "layers.1.weight": 5 / 512}
    assert found["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    assert found["weight_bytes"] == (directory / "model.safetensors").stat().st_size


def test_what_batch_norm_counts_is_no_parameter(check, tiny_model, tiny_data, tmp_path):
    directory = tiny_model(tmp_path / "m", "ResNetForImageClassification")
    model = transformers.ResNetForImageClassification.from_pretrained(directory)
    found = check(directory, tiny_data(tmp_path / "d")["arrays"], "test", [], [1, 8, 8])
    assert found["parameters"] == sum(value.numel() for value in model.parameters())


def test_a_split_without_rows_is_refused(check, tiny_model, tiny_data, tmp_path):
    with pytest.raises(SystemExit, match="no rows of split 'nowhere'"):
        check(tiny_model(tmp_path / "m"), tiny_data(tmp_path / "d")["text"], "nowhere", [])


def test_the_command_prints_json_and_nothing_else(tiny_model, tiny_data, tmp_path):
    directory = tiny_model(tmp_path / "m", "ViTForImageClassification")
    data = tiny_data(tmp_path / "d")["arrays"]
    command = [
        sys.executable,
        str(SCRIPT),
        str(directory),
        str(data),
        "--shape",
        "1,8,8",
        "--slices",
        "digit",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout)
    assert found["architecture"] == "ViTForImageClassification"
    assert len(found["values"]) == 11

"""Effects. Artifacts opened once more: what fits, what was tampered with, and a process that shares nothing."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks import pruning
from tasks.contract import BadInput, Dataset, Work
from tasks.loading.models import outline, prunable_layers
from tasks.writing import reopening
from tasks.writing.recount import ArtifactWrong
from tasks.writing.reopening import reopen, reopen_in_a_clean_process

PARAMS = {"criterion": "magnitude", "pattern": "unstructured", "scope": "tensor", "amount": 0.5}


@pytest.fixture
def pruned(tmp_path, tiny_model):
    """Architecture -> the work that pruned it; its output is the artifact."""

    def make(architecture="LlamaForCausalLM", config=None, **params):
        (tmp_path / "out").mkdir()
        work = Work(
            model=tiny_model(tmp_path / "m", architecture, config=config),
            params={**PARAMS, **params},
            output=tmp_path / "out",
        )
        return work, pruning.run(work)

    return make


def break_weight(directory, name, value):
    tensors = load_file(directory / "model.safetensors")
    tensors[name].view(-1)[0] = value
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "architecture",
    [
        "LlamaForCausalLM",
        "GPT2LMHeadModel",
        "BertForSequenceClassification",
        "BertModel",
        "ViTForImageClassification",
        "ResNetForImageClassification",
        "MLPForClassification",
        "MLPForRegression",
    ],
)
def test_every_kind_of_model_runs_once_it_is_written(pruned, architecture):
    work, product = pruned(architecture, verify="reload")
    assert "non_finite_answer" not in {finding.kind for finding in product.findings}
    layers = prunable_layers(outline(work.model).module)
    found = reopen(work.output, [layer.weight for layer in layers])
    tensors = load_file(work.output / "model.safetensors")
    assert found.is_finite
    assert found.zeros == {layer.weight: int((tensors[layer.weight] == 0).sum()) for layer in layers}
    assert found.family == outline(work.model).family


def test_a_clean_process_finds_what_this_one_does(pruned):
    work, _ = pruned(config={"tie_word_embeddings": True})
    names = [layer.weight for layer in prunable_layers(outline(work.model).module)]
    assert reopen_in_a_clean_process(work.output, names) == reopen(work.output, names)


def test_a_weight_that_is_no_number_does_not_load(pruned):
    work, _ = pruned("MLPForClassification")
    break_weight(work.output, "layers.0.weight", torch.nan)
    with pytest.raises(BadInput, match=r"layers\.0\.weight.*NaN"):
        reopen(work.output, [])
    with pytest.raises(ArtifactWrong, match=r"ended with 1.*layers\.0\.weight"):
        reopen_in_a_clean_process(work.output, [])


def test_an_answer_that_is_not_finite_is_a_finding(pruned, tmp_path):
    work, _ = pruned("MLPForClassification")
    break_weight(work.model, "layers.0.bias", 3e38)
    break_weight(work.model, "layers.2.bias", 3e38)
    tensors = load_file(work.model / "model.safetensors")
    tensors["layers.1.weight"] = tensors["layers.1.weight"] * 1e30
    save_file(tensors, work.model / "model.safetensors", metadata={"format": "pt"})
    again = tmp_path / "again"
    again.mkdir()
    product = pruning.run(replace(work, params={**PARAMS, "verify": "reload"}, output=again))
    assert "non_finite_answer" in {finding.kind for finding in product.findings}


def test_zeros_that_come_or_go_after_counting_are_seen(pruned, monkeypatch, tmp_path):
    work, _ = pruned("MLPForClassification")
    honest = reopen(work.output, ["layers.0.weight"])
    monkeypatch.setattr(
        pruning,
        "reopen",
        lambda directory, names: replace(honest, zeros=dict.fromkeys(names, honest.zeros["layers.0.weight"])),
    )
    again = tmp_path / "again"
    again.mkdir()
    with pytest.raises(ArtifactWrong, match="other zeros than were counted"):
        pruning.run(replace(work, params={**PARAMS, "verify": "reload"}, output=again))


def test_an_artifact_whose_config_makes_another_model_is_refused_without_being_asked(
    pruned, tmp_path, monkeypatch
):
    work, _ = pruned("MLPForClassification")
    again = tmp_path / "again"
    again.mkdir()
    write_like = pruning.write_like

    def and_change_the_config(checkpoint, output, change):
        findings = write_like(checkpoint, output, change)
        config = json.loads((output / "config.json").read_text())
        config["architectures"] = ["MLPForRegression"]
        (output / "config.json").write_text(json.dumps(config))
        return findings

    monkeypatch.setattr(pruning, "write_like", and_change_the_config)
    with pytest.raises(ArtifactWrong, match="make another model"):
        pruning.run(replace(work, output=again))


def test_a_process_that_takes_too_long_or_too_much_is_ended(pruned, monkeypatch):
    work, _ = pruned("MLPForClassification")
    monkeypatch.setattr(reopening, "SPARE_SECONDS", 0.05)
    with pytest.raises(ArtifactWrong, match="did not open the artifact within"):
        reopen_in_a_clean_process(work.output, [])
    monkeypatch.setattr(reopening, "SPARE_SECONDS", 120.0)
    monkeypatch.setattr(reopening, "SPARE_BYTES", 1 << 20)
    with pytest.raises(ArtifactWrong, match="a clean process ended with"):
        reopen_in_a_clean_process(work.output, [])


@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.getaddrinfo('localhost', 9)",
        f"import pickle; pickle.loads({pickle.dumps(Dataset)!r})",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import os; os.execv('/bin/true', ['true'])",
    ],
)
def test_the_clean_process_reaches_nothing_unpickles_nothing_and_starts_nothing(attempt):
    code = f"import sys; from tasks.writing import reopening; sys.addaudithook(reopening._forbid); {attempt}"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=reopening._environment(),
        check=False,
    )
    assert answer.returncode == 1
    assert "PermissionError: opening the artifact led to" in answer.stderr


def test_the_clean_process_gets_no_credentials(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert "secret" not in reopening._environment().values()

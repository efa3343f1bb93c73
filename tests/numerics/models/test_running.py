"""A model that loads and does not run is refused by name; a machine that fails while it runs is not the model's fault."""

from __future__ import annotations

import pytest
import torch
from cases.model_files import MIXTRAL, save_with_transformers

from tasks.contract import BadInput
from tasks.cutting.probing import runs, sound_answer
from tasks.examples.batches import Batch, logits_of
from tasks.loading.models import load

IDS = torch.tensor([[1, 2, 3]])
BATCH = Batch(positions=(0,), inputs={"input_ids": IDS}, lengths=(3,))


def test_experts_of_sizes_that_the_kernel_does_not_take_are_told_with_the_file_and_the_shapes(tmp_path):
    save_with_transformers(tmp_path, "MixtralForCausalLM", "mixtral", **{**MIXTRAL, "intermediate_size": 15})
    with pytest.raises(
        BadInput, match=r"the model does not run \(config.json\): given input_ids of \[1, 3\].*strides"
    ):
        logits_of(load(tmp_path), BATCH)


def test_rotations_of_an_odd_number_are_told(tmp_path):
    sizes = {"vocab_size": 50, "hidden_size": 12, "num_attention_heads": 2, "num_hidden_layers": 1}
    save_with_transformers(tmp_path, "PhiForCausalLM", "phi", intermediate_size=8, **sizes)
    with pytest.raises(BadInput, match=r"does not run \(config.json\).*RuntimeError: The size of tensor a"):
        logits_of(load(tmp_path), BATCH)


def test_a_smaller_model_that_does_not_run_says_why_and_what_size_would(tmp_path):
    save_with_transformers(tmp_path, "MixtralForCausalLM", "mixtral", **{**MIXTRAL, "intermediate_size": 15})
    small = load(tmp_path)
    assert not runs(small)
    with pytest.raises(
        BadInput, match=r"the smaller model does not run: with these sizes.*strides.*round_to"
    ):
        sound_answer(small)


def test_want_of_memory_while_a_model_runs_is_not_told_as_the_models_fault(tmp_path):
    save_with_transformers(tmp_path, "MixtralForCausalLM", "mixtral", **MIXTRAL)
    model = load(tmp_path)
    model.module.register_forward_pre_hook(lambda *_: _run_out())
    with pytest.raises(torch.OutOfMemoryError):
        logits_of(model, BATCH)


def _run_out() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")

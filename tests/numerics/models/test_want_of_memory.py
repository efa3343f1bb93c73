"""Memory that runs out while a model is built, tried or asked: never told as a fault of the model."""

from __future__ import annotations

import pytest
import torch
import transformers

from tasks.contract import BadInput, is_of_memory
from tasks.cutting import probing
from tasks.files.configs import ModelConfig
from tasks.loading.building import build
from tasks.loading.foresight import check_causal
from tasks.loading.models import load

LACKING = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


def failing(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.fixture(params=LACKING, ids=lambda error: type(error).__name__)
def lacking(request):
    return request.param


def test_it_is_known_by_what_python_and_torch_say(lacking):
    assert is_of_memory(lacking)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("can't allocate memory"),
        BadInput("x", why="can't allocate memory", do="z"),
    ],
)
def test_nothing_else_is(error):
    assert not is_of_memory(error)


def test_while_a_model_is_built(lacking, monkeypatch):
    monkeypatch.setattr(transformers.LlamaConfig, "__init__", failing(lacking))
    config = ModelConfig(architecture="LlamaForCausalLM", values={"model_type": "llama"}, findings=())
    with pytest.raises(type(lacking)) as caught:
        build(config, torch.float32)
    assert caught.value is lacking


def test_while_a_language_model_is_asked_whether_it_sees_the_future(
    lacking, monkeypatch, tiny_model, tmp_path
):
    model = load(tiny_model(tmp_path, "LlamaForCausalLM"))
    monkeypatch.setattr(model.module, "forward", failing(lacking))
    with pytest.raises(type(lacking)) as caught:
        check_causal(model.module, model.config)
    assert caught.value is lacking


def test_while_a_smaller_model_is_tried(lacking, monkeypatch, tiny_model, tmp_path):
    model = load(tiny_model(tmp_path, "LlamaForCausalLM"))
    monkeypatch.setattr(probing, "logits_of", failing(lacking))
    with pytest.raises(type(lacking)) as caught:
        probing.runs(model)
    assert caught.value is lacking

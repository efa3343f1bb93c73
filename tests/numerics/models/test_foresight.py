"""Language models that see what they are asked to predict are found by what they answer."""

from __future__ import annotations

import pytest
import torch
import transformers

from tasks.contract import BadInput
from tasks.loading.foresight import check_causal
from tasks.loading.models import load

SMALL = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
XLNET = {"vocab_size": 32, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 16}
XLM = {"vocab_size": 32, "emb_dim": 16, "n_layers": 2, "n_heads": 2}
GPT2 = {"vocab_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}


def untrained(architecture, values):
    kind = getattr(transformers, architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return kind(kind.config_class(**values)).eval()


@pytest.mark.parametrize(
    ("architecture", "values"),
    [
        ("XLNetLMHeadModel", XLNET),
        ("XLMWithLMHeadModel", XLM),
        ("BertLMHeadModel", {**SMALL, "intermediate_size": 16}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_sees_the_future_is_refused(architecture, values, dtype):
    module = untrained(architecture, values)
    draw = torch.Generator().manual_seed(4)
    for weight in module.parameters():  # a fresh model hardly attends to anything
        weight.data.add_(torch.randn(weight.shape, generator=draw), alpha=0.3)
    module.to(dtype)
    with pytest.raises(BadInput, match="sees what it is asked to predict"):
        check_causal(module, module.config)


def test_a_stored_one_is_refused_when_it_is_loaded(tmp_path):
    untrained("BertLMHeadModel", {**SMALL, "intermediate_size": 16}).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="set is_decoder to true"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "values"),
    [
        ("BertLMHeadModel", {**SMALL, "intermediate_size": 16, "is_decoder": True}),
        ("LlamaForCausalLM", {**SMALL, "intermediate_size": 16}),
        ("LlamaForCausalLM", {**SMALL, "intermediate_size": 16, "eos_token_id": [1, 2]}),
        ("GPT2LMHeadModel", GPT2),
        ("MixtralForCausalLM", {**SMALL, "intermediate_size": 16, "num_key_value_heads": 2}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_causal_one_is_not(architecture, values, dtype):
    module = untrained(architecture, values).to(dtype)
    assert check_causal(module, module.config) == ()


def test_what_cannot_be_asked_is_told():
    tiny = untrained("GPT2LMHeadModel", {**GPT2, "vocab_size": 4})
    broken = untrained("GPT2LMHeadModel", GPT2)
    broken.lm_head.weight.data.fill_(float("nan"))
    for module, why in ((tiny, "cannot be run"), (broken, "NaN")):
        (finding,) = check_causal(module, module.config)
        assert finding.kind == "not_probed"
        assert why in finding.message

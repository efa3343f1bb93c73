"""Models whose files are not what their config says are refused by name, and their code is never run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cases.model_files import edit_config, edit_weights

from tasks import pruning
from tasks.contract import BadInput, Work
from tasks.loading.models import load, outline


def refusal(path: Path) -> BadInput:
    with pytest.raises(BadInput) as caught:
        load(path)
    assert caught.value.do
    return caught.value


def test_a_missing_weight_is_named(tmp_path, tiny_model):
    path = edit_weights(
        tiny_model(tmp_path / "m"), lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight")
    )
    error = refusal(path)
    assert error.tensor == "model.layers.1.mlp.up_proj.weight"
    assert error.file == "model.safetensors"
    assert "lacks" in error.why


@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool])
def test_a_weight_that_is_no_floating_number_is_named_before_anything_is_read(
    tmp_path, tiny_model, name, dtype
):
    path = edit_weights(
        tiny_model(tmp_path / "m"), lambda tensors: tensors.update({name: tensors[name].to(dtype)})
    )
    with pytest.raises(BadInput, match="already quantized") as caught:
        outline(path)
    assert (caught.value.tensor, caught.value.file) == (name, "model.safetensors")


def test_two_weights_where_the_config_has_one_are_refused_by_every_task(tmp_path, tiny_model):
    path = edit_config(tiny_model(tmp_path / "m"), tie_word_embeddings=True)
    assert refusal(path).tensor == "lm_head.weight"
    out = tmp_path / "out"
    out.mkdir()
    params = {"criterion": "magnitude", "pattern": "unstructured", "amount": 0.5}
    with pytest.raises(BadInput, match="are one weight, and the file holds two different ones"):
        pruning.run(Work(model=path, params=params, output=out))
    alike = edit_weights(
        path, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    )
    assert pruning.run(Work(model=alike, params=params, output=out)).has_artifact


def test_a_tensor_too_many_is_named(tmp_path, tiny_model):
    extra = "model.layers.0.mlp.extra"
    path = edit_weights(tiny_model(tmp_path / "m"), lambda tensors: tensors.update({extra: torch.ones(2)}))
    assert refusal(path).tensor == extra


def test_a_weight_of_another_shape_is_named(tmp_path, tiny_model):
    path = edit_config(tiny_model(tmp_path / "m"), intermediate_size=48)
    error = refusal(path)
    assert "mlp." in error.tensor
    assert "[32, 16]" in error.why or "[16, 32]" in error.why


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"]
)
def test_weights_that_are_no_numbers_are_named_and_counted(tmp_path, tiny_model, name, value):
    def spoil(tensors):
        tensors[name].view(-1)[:3] = value

    error = refusal(edit_weights(tiny_model(tmp_path / "m"), spoil))
    assert error.tensor == name
    assert error.why.startswith("3 of")


def test_buffers_of_older_exports_are_findings_and_not_used(tmp_path, tiny_model):
    def add(tensors):
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)

    model = load(edit_weights(tiny_model(tmp_path / "m"), add))
    assert [(f.kind, f.subject) for f in model.findings] == [
        ("unused_tensor", "model.layers.0.self_attn.rotary_emb.inv_freq")
    ]


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "BertForSequenceClassification", "ViTModel"])
def test_what_is_of_another_head_is_a_finding_and_not_used(tmp_path, tiny_model, architecture):
    extra = {"v_head.summary.weight": torch.ones(2, 2), "qa_outputs.bias": torch.ones(2)}
    model = load(
        edit_weights(tiny_model(tmp_path / "m", architecture), lambda tensors: tensors.update(extra))
    )
    found = {finding.subject: finding.message for finding in model.findings}
    assert found.keys() == extra.keys()
    assert all("of a head that the model does not have" in message for message in found.values())


def test_a_class_of_ones_own_has_no_heads_beside_it(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m", "MLPForClassification")
    assert refusal(edit_weights(path, lambda tensors: tensors.update(extra=torch.ones(2)))).tensor == "extra"


@pytest.mark.parametrize("mask", ["attn.bias", "attn.masked_bias"])
def test_masks_of_old_exports_are_findings_and_biases_are_not(tmp_path, tiny_model, mask):
    name = f"h.0.{mask}"
    path = tiny_model(tmp_path / "m", "GPT2LMHeadModel")
    edit_weights(path, lambda tensors: tensors.update({name: torch.ones(1, 1, 4, 4)}))
    assert [finding.subject for finding in load(path).findings] == [name]
    if mask == "attn.masked_bias":
        edit_weights(path, lambda tensors: tensors.update({name: torch.ones(3)}))
        assert refusal(path).tensor == name


def test_tied_weights_stored_twice_must_be_equal(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m", config={"tie_word_embeddings": True})
    equal = edit_weights(
        path, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    )
    module = load(equal).module
    assert module.lm_head.weight is module.model.embed_tokens.weight
    edit_weights(path, lambda tensors: tensors["lm_head.weight"].add_(1))
    error = refusal(path)
    assert error.tensor == "lm_head.weight"
    assert "tie_word_embeddings" in error.do


def test_a_tied_weight_may_be_stored_under_either_name(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m", config={"tie_word_embeddings": True})
    edit_weights(
        path, lambda tensors: tensors.update({"lm_head.weight": tensors.pop("model.embed_tokens.weight")})
    )
    module = load(path).module
    assert module.model.embed_tokens.weight is module.lm_head.weight


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"architectures": ["EvilForCausalLM"]}, "EvilForCausalLM"),
        ({"architectures": ["LlamaModel"]}, "no causal or masked language model"),
        ({"architectures": ["AutoModelForCausalLM"]}, "no causal or masked language model"),
        ({"architectures": ["BertForSequenceClassification"]}, "of type llama"),
        ({"architectures": ["os.system"]}, "os.system"),
        ({"architectures": ["TimmWrapperForImageClassification"], "model_type": "timm_wrapper"}, "Timm"),
        ({"model_type": "evil"}, "no model_type 'evil'"),
        ({"model_type": None}, "no model_type"),
        ({"model_type": ["llama"]}, "no model_type"),
        ({"hidden_act": "evil"}, "cannot build"),
        ({"hidden_size": "16"}, "cannot build"),
        ({"hidden_size": -16}, "cannot"),
        ({"num_attention_heads": 0}, "cannot"),
        ({"rope_parameters": {"rope_type": "evil", "rope_theta": 1.0}}, "cannot build"),
        ({"quantization_config": {"quant_method": "gptq"}}, "already quantized"),
        ({"num_hidden_layers": 10**9}, "weights hold only"),
        ({"num_labels": 10**9}, "num_labels"),
    ],
)
def test_configs_that_ask_for_something_else_are_refused(tmp_path, tiny_model, values, reason):
    error = refusal(edit_config(tiny_model(tmp_path / "m"), **values))
    assert error.file == "config.json"
    assert reason in str(error)


def test_a_vocabulary_that_the_file_does_not_hold_costs_nothing(tmp_path, tiny_model):
    error = refusal(edit_config(tiny_model(tmp_path / "m"), vocab_size=10**9))
    assert error.tensor == "lm_head.weight" or error.tensor == "model.embed_tokens.weight"


def test_code_beside_a_model_is_never_run(tmp_path, tiny_model):
    path = edit_config(
        tiny_model(tmp_path / "m"),
        auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"},
        trust_remote_code=True,
        _attn_implementation_internal="someone/evil-kernel",
        attn_implementation="someone/evil-kernel",
    )
    canary = tmp_path / "canary"
    (path / "evil.py").write_text(f"open({str(canary)!r}, 'w')\n")
    model = load(path)
    assert {finding.subject for finding in model.findings} == {
        "auto_map",
        "trust_remote_code",
        "_attn_implementation_internal",
        "attn_implementation",
    }
    assert not canary.exists()
    assert model.config._attn_implementation in ("sdpa", "eager")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64])
def test_quantized_weights_are_refused_by_name(tmp_path, tiny_model, dtype):
    def quantize(tensors):
        name = "model.layers.0.mlp.up_proj.weight"
        tensors[name] = tensors[name].to(dtype)

    assert (
        refusal(edit_weights(tiny_model(tmp_path / "m"), quantize)).tensor
        == "model.layers.0.mlp.up_proj.weight"
    )


def test_a_directory_without_weights_or_config_says_which_is_missing(tmp_path, tiny_model):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no weights"):
        load(tmp_path / "empty")
    path = tiny_model(tmp_path / "m")
    (path / "config.json").unlink()
    assert refusal(path).file == "config.json"

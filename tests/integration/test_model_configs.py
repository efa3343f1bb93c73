"""config.json as hostile input: what is dropped, what is refused, what is left."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tasks.contract import BadInput
from tasks.files.configs import ModelConfig, read_config


def read(directory: Path, tensors: int = 20, **values: Any) -> ModelConfig:
    content = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **values}
    (directory / "config.json").write_text(json.dumps(content))
    return read_config(directory, tensors)


def refusal(directory: Path, tensors: int = 20, **values: Any) -> str:
    with pytest.raises(BadInput) as caught:
        read(directory, tensors, **values)
    assert caught.value.file == "config.json"
    return str(caught.value)


def test_ordinary_values_pass_unchanged(tmp_path):
    values = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "id2label": {"0": "a", "1": "_b"},
        "label2id": {"a": 0, "_b": 1},
        "depths": [1, 2],
        "eos_token_id": [1, 2],
        "tie_word_embeddings": False,
    }
    config = read(tmp_path, **values)
    assert config.architecture == "LlamaForCausalLM"
    assert config.values == {"model_type": "llama", **values}
    assert config.findings == ()


def test_what_is_known_better_from_elsewhere_is_dropped_without_a_word(tmp_path):
    config = read(tmp_path, torch_dtype="load", dtype="float32", transformers_version="1", _name_or_path="/x")
    assert config.values == {"model_type": "llama"}
    assert config.findings == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_map", {"AutoConfig": "evil.Config"}),
        ("trust_remote_code", True),
        ("_attn_implementation_internal", "someone/kernel"),
        ("_experts_implementation_internal", "someone/kernel"),
        ("attn_implementation", "someone/kernel"),
        ("_attn_implementation", "someone/kernel"),
        ("name_or_path", "someone/model"),
        ("backbone", "someone/backbone"),
        ("use_pretrained_backbone", True),
        ("__class__", "x"),
        ("_commit_hash", "abc"),
    ],
)
def test_keys_that_reach_outside_are_dropped_with_a_finding_wherever_they_stand(tmp_path, key, value):
    config = read(
        tmp_path, **{key: value, "text_config": {key: value, "hidden_size": 8}, "list": [{key: value}]}
    )
    assert config.values == {"model_type": "llama", "text_config": {"hidden_size": 8}, "list": [{}]}
    assert {finding.kind for finding in config.findings} == {"ignored_config_key"}
    assert {finding.subject for finding in config.findings} == {key, f"text_config.{key}", f"list.{key}"}


def test_such_keys_without_a_value_are_dropped_without_a_finding(tmp_path):
    config = read(tmp_path, auto_map=None, trust_remote_code=False, quantization_config=None)
    assert config.values == {"model_type": "llama"}
    assert config.findings == ()


@pytest.mark.parametrize("key", ["quantization_config", "compression_config", "sparsity_config"])
@pytest.mark.parametrize("nested", [False, True])
def test_models_that_are_compressed_already_are_refused(tmp_path, key, nested):
    values = {key: {"quant_method": "gptq", "format": "evil.py:run"}}
    message = refusal(tmp_path, **({"text_config": values} if nested else values))
    assert "already quantized or compressed" in message
    assert key in message


@pytest.mark.parametrize("architectures", [None, [], "LlamaForCausalLM", ["A", "B"], [1], {}])
def test_exactly_one_architecture_must_be_named(tmp_path, architectures):
    assert "exactly one class" in refusal(tmp_path, architectures=architectures)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 1_000_000_000),
        ("n_layer", 400),
        ("n_layers", 400),
        ("num_layers", 400),
        ("num_local_experts", 10**6),
        ("depths", [200, 200]),
        ("num_hidden_groups", 400),
        ("encoder_layers", 400),
        ("num_blocks", 400),
    ],
)
def test_more_layers_than_the_weights_can_hold_are_refused_before_any_is_built(tmp_path, key, value):
    assert "the weights hold only 20 tensors" in refusal(tmp_path, **{key: value})
    assert read(tmp_path, tensors=10**9, **{key: value}).values[key] == value


def test_label_bombs_and_huge_numbers_are_refused(tmp_path):
    assert "100000" in refusal(tmp_path, num_labels=10**9)
    assert "labels" in refusal(tmp_path, id2label={str(index): "x" for index in range(100_001)})
    assert "labels" in refusal(tmp_path, id2label=["a"])
    assert "beyond any model" in refusal(tmp_path, max_position_embeddings=10**30)
    assert "beyond any model" in refusal(tmp_path, sizes=[1, [10**30]])


@pytest.mark.parametrize("label", [{"auto_map": "x"}, ["a"], None, 0.5])
def test_a_label_is_a_text_or_a_number(tmp_path, label):
    assert "label" in refusal(tmp_path, id2label={"0": label})
    assert read(tmp_path, label2id={"a": 0}, id2label={"0": "a"}).findings == ()


@pytest.mark.parametrize("key", ["\x1b[2J", "a\nb", "\u202e"])
def test_a_key_that_cannot_be_printed_is_refused_and_shown_escaped(tmp_path, key):
    for values in ({key: 1}, {"text_config": {key: 1}}):
        message = refusal(tmp_path, **values)
        assert "cannot be printed" in message
        assert message.isprintable()


def test_nesting_that_no_model_needs_is_refused(tmp_path):
    for depth, opening, closing in ((900, '{"a":', "}"), (900, "[", "]"), (40, '[{"a":', "}]")):
        nested = json.loads(opening * depth + "1" + closing * depth)
        assert "nested" in refusal(tmp_path, inner=nested)
    assert read(tmp_path, inner=[[{"a": [[{"b": 1}]]}]]).values["inner"] == [[{"a": [[{"b": 1}]]}]]


def test_infinity_is_a_value_that_configs_have(tmp_path):
    assert math.isinf(read(tmp_path, time_step_limit=[0.0, float("inf")]).values["time_step_limit"][1])


def test_repeated_keys_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["A"], "architectures": ["B"]}')
    with pytest.raises(BadInput, match="twice"):
        read_config(tmp_path, 1)


def test_a_missing_linked_or_oversized_config_is_refused(tmp_path):
    with pytest.raises(BadInput, match="No such file"):
        read_config(tmp_path, 1)
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "config.json").symlink_to(tmp_path / "real.json")
    with pytest.raises(BadInput, match="symbolic link"):
        read_config(tmp_path, 1)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_bytes(b" " * 4_000_001)
    with pytest.raises(BadInput, match="4000000"):
        read_config(tmp_path, 1)

"""Models are loaded as transformers loads them, without its help, and with their prunable layers."""

from __future__ import annotations

import json
import logging

import pytest
import torch
import transformers
from cases.architectures import ARCHITECTURES
from cases.model_files import FAMILIES, MIXTRAL, edit_config, example, names, save_with_transformers
from safetensors.torch import load_file, save_file
from torch import nn

from tasks.contract import BadInput
from tasks.loading.models import Layer, load, outline, prunable_layers, rows_of, skipped_layers


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_those_of_the_file_in_its_dtype(tmp_path, tiny_model, architecture, dtype):
    path = tiny_model(tmp_path / "m", architecture, dtype=dtype)
    model = load(path)
    assert model.family == FAMILIES[architecture]
    assert not model.module.training
    stored = load_file(path / "model.safetensors")
    state = model.module.state_dict()
    for name, tensor in stored.items():
        assert torch.equal(state[name], tensor), name
        assert state[name].dtype == tensor.dtype
    assert not any(tensor.is_meta for tensor in (*model.module.parameters(), *model.module.buffers()))
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert model.findings == ()


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "MLPForClassification"])
def test_outputs_and_buffers_equal_those_of_from_pretrained(tmp_path, tiny_model, architecture):
    path = tiny_model(tmp_path / "m", architecture)
    model = load(path)
    reference = getattr(transformers, architecture).from_pretrained(path).eval()
    for name, buffer in reference.named_buffers():
        assert torch.equal(buffer, model.module.get_buffer(name)), name
    inputs = example(model.family)
    with torch.no_grad():
        assert torch.equal(model.module(**inputs).logits, reference(**inputs).logits)


@pytest.mark.parametrize(
    ("name", "model_type", "values"),
    [
        ("ViTForImageClassification", "vit", {"image_size": 8, "patch_size": 4, "num_channels": 1}),
        ("GPTNeoXForCausalLM", "gpt_neox", {"vocab_size": 50}),
        ("MixtralForCausalLM", "mixtral", MIXTRAL),
        ("AlbertForSequenceClassification", "albert", {"vocab_size": 50, "embedding_size": 8}),
        ("MambaForCausalLM", "mamba", {"vocab_size": 50}),
    ],
)
def test_names_that_transformers_has_changed_are_found_as_it_finds_them(tmp_path, name, model_type, values):
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    reference = save_with_transformers(tmp_path, name, model_type, **{**small, **values})
    model = load(tmp_path)
    state = model.module.state_dict()
    for key, tensor in reference.state_dict().items():
        assert torch.equal(state[key], tensor), key
    inputs = example(model.family)
    with torch.no_grad():
        assert torch.equal(model.module(**inputs).logits, reference(**inputs).logits)


def test_own_architectures_are_built_and_run(tmp_path, tiny_model):
    model = load(tiny_model(tmp_path / "m", "MLPForClassification"))
    assert model.config.input_size == 64
    with torch.no_grad():
        assert model.module(torch.zeros(3, 64)).shape == (3, 10)


def test_an_outline_has_shapes_and_no_data(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m")
    assert all(tensor.is_meta for tensor in outline(path).module.parameters())
    assert prunable_layers(outline(path).module) == prunable_layers(load(path).module)


def test_the_last_model_is_kept_until_its_files_or_the_device_change(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m")
    first = load(path)
    assert load(path) is first
    tiny_model(path, seed=1)
    second = load(path)
    assert second is not first
    load(tiny_model(tmp_path / "other"))
    assert load(path) is not second


def test_changing_a_loaded_weight_leaves_the_file_alone(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m")
    before = (path / "model.safetensors").read_bytes()
    module = load(path).module
    for layer in prunable_layers(module):
        module.get_submodule(layer.name).weight.zero_()
    assert (path / "model.safetensors").read_bytes() == before


def test_sharded_models_load_like_whole_ones(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m")
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    names = sorted(tensors)
    listing = {}
    for index, part in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in part}, path / f"part-{index}.safetensors")
        listing.update(dict.fromkeys(part, f"part-{index}.safetensors"))
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listing}))
    state = load(path).module.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())


def test_layers_of_a_llama_are_its_linear_layers_in_order_without_embedding_and_head(tmp_path, tiny_model):
    found = prunable_layers(outline(tiny_model(tmp_path / "m")).module)
    parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    parts += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert [layer.name for layer in found] == [f"model.layers.{i}.{part}" for i in range(2) for part in parts]
    assert found[-1].weight == "model.layers.1.mlp.down_proj.weight"
    assert (found[-1].outputs, found[-1].inputs, found[-1].parameters) == (16, 32, 512)


def test_layers_of_gpt2_are_stored_transposed(tmp_path, tiny_model):
    found = {
        layer.name: layer
        for layer in prunable_layers(outline(tiny_model(tmp_path / "m", "GPT2LMHeadModel")).module)
    }
    layer = found["transformer.h.0.attn.c_attn"]
    assert (layer.transposed, layer.shape, layer.outputs, layer.inputs) == (True, (16, 48), 48, 16)
    assert "lm_head" not in found


def test_convolutions_have_their_kernels_as_inputs(tmp_path, tiny_model):
    found = prunable_layers(outline(tiny_model(tmp_path / "m", "ResNetForImageClassification")).module)
    assert (found[0].shape, found[0].outputs, found[0].inputs) == ((8, 1, 7, 7), 8, 49)
    assert found[-1].name.startswith("classifier")


def test_grouped_convolutions_count_the_inputs_of_all_groups():
    (layer,) = prunable_layers(nn.Sequential(nn.Conv2d(6, 4, 3, groups=2)))
    assert (layer.inputs, layer.groups, layer.parameters, layer.outputs) == (54, 2, 108, 4)
    assert rows_of(layer, torch.zeros(layer.shape)).shape == (4, 27)


def test_weights_shared_with_an_embedding_are_left_out_and_others_listed_once():
    module = nn.ModuleDict(
        {
            "embedding": nn.Embedding(8, 4),
            "tied": nn.Linear(4, 8),
            "one": nn.Linear(4, 4),
            "two": nn.Linear(4, 4),
        }
    )
    module["tied"].weight = module["embedding"].weight
    module["two"].weight = module["one"].weight
    assert names(module) == ["one"]


def test_what_cannot_be_pruned_yet_is_named():
    module = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2), "deep": nn.Conv3d(1, 2, 3)})
    module.register_parameter("experts", nn.Parameter(torch.zeros(3, 4, 5)))
    module.register_parameter("vector", nn.Parameter(torch.zeros(1, 1, 5)))
    assert prunable_layers(module) == ()
    found = {finding.subject: finding for finding in skipped_layers(module)}
    assert set(found) == {"experts", "attention.in_proj_weight", "attention.out_proj.weight", "deep.weight"}
    assert {finding.kind for finding in found.values()} == {"skipped_layer"}
    assert "[3, 4, 5]" in found["experts"].message


def test_a_layer_with_one_output_is_a_layer():
    assert names(nn.Sequential(nn.Linear(5, 1))) == ["0"]


def test_rows_are_views_that_write_through():
    for layer, shape in (
        (prunable_layers(nn.Sequential(nn.Linear(3, 2)))[0], (2, 3)),
        (prunable_layers(nn.Sequential(nn.Conv1d(2, 4, 3)))[0], (4, 2, 3)),
        (prunable_layers(nn.Sequential(transformers.pytorch_utils.Conv1D(5, 3)))[0], (3, 5)),
    ):
        weight = torch.ones(shape)
        rows_of(layer, weight)[0] = 0
        assert int((weight == 0).sum()) == layer.inputs
        assert isinstance(layer, Layer)


def test_fused_experts_are_skipped_by_name_and_the_rest_is_found(tmp_path):
    save_with_transformers(tmp_path, "MixtralForCausalLM", "mixtral", **MIXTRAL)
    model = outline(tmp_path)
    assert len(prunable_layers(model.module)) == 8
    assert "model.layers.0.mlp.experts.gate_up_proj" in {f.subject for f in skipped_layers(model.module)}


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """(family) -> the directory of a model whose architecture an installed package offers."""

    def make(family, config=None, offer="Architecture(build=build, family=family)"):
        (tmp_path / "their_models.py").write_text(
            "from torch import nn\n"
            "from tasks.loading.architectures import Architecture\n"
            "def build(config):\n"
            "    return nn.Sequential(nn.Linear(config['width'], 3))\n"
            f"family = {family!r}\n"
            f"theirs = {offer}\n"
        )
        info = tmp_path / "their_models-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-models\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            "[prunefleet.architectures]\nTheirModel = their_models:theirs\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(__import__("sys").modules, "their_models", raising=False)
        path = tmp_path / "m"
        path.mkdir()
        (path / "config.json").write_text(
            json.dumps({"architectures": ["TheirModel"]} | (config or {"width": 5}))
        )
        save_file({"0.weight": torch.ones(3, 5), "0.bias": torch.zeros(3)}, path / "model.safetensors")
        return path

    return make


@pytest.mark.parametrize("family", ["feature_classifier", "feature_regressor", "feature_encoder"])
def test_an_architecture_of_an_installed_package_is_found_by_its_entry_point(theirs, family):
    model = load(theirs(family))
    assert (model.family, names(model.module), model.config.width) == (family, ["0"], 5)


@pytest.mark.parametrize(
    ("config", "offer", "words"),
    [
        ({"height": 5}, "Architecture(build=build, family=family)", r"TheirModel cannot .*KeyError: 'width'"),
        ({"width": -5}, "Architecture(build=build, family=family)", "TheirModel cannot .*RuntimeError"),
        (None, "build", "TheirModel of prunefleet.architectures is a function, not a Architecture"),
        (None, "1 / 0", "does not load: ZeroDivisionError.*tasks.loading.architectures.Architecture"),
    ],
)
def test_an_architecture_that_does_not_build_is_refused_with_the_reason(theirs, config, offer, words):
    with pytest.raises(BadInput, match=words):
        load(theirs("feature_classifier", config, offer))


def test_a_family_that_nobody_knows_is_refused_by_name(theirs):
    with pytest.raises(BadInput, match="TheirModel names the family 'poet'.*feature_classifier"):
        load(theirs("poet"))


def test_what_transformers_says_of_a_config_is_told_once_and_not_logged_too(tmp_path, caplog, monkeypatch):
    save_with_transformers(
        tmp_path, "FalconForCausalLM", "falcon", vocab_size=50, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, new_decoder_architecture=False,
    )  # fmt: skip
    edit_config(tmp_path, head_dim=8)
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "propagate", True)
    before = logger.level
    caplog.clear()
    with pytest.raises(BadInput, match="head_dim"):
        outline(tmp_path)
    assert not caplog.records
    assert logger.level == before

"""Which layers a recipe prunes: skips that match, patterns that fit, and a reason for everything left alone."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.contract import BadInput
from tasks.loading.models import outline, prunable_layers
from tasks.masks.selection import select_layers, stored_names


def chosen(path, pattern="unstructured", skip=()):
    return select_layers(outline(path), pattern, skip)


def test_all_layers_are_chosen_when_nothing_is_skipped(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m")
    selection = chosen(path)
    assert selection.layers == prunable_layers(outline(path).module)
    assert selection.findings == ()


def test_skips_are_shell_patterns_on_layer_names(tmp_path, tiny_model):
    selection = chosen(tiny_model(tmp_path / "m"), skip=("*.mlp.*", "model.layers.0.self_attn.q_proj"))
    names = [layer.name for layer in selection.layers]
    assert len(names) == 7
    assert not any(".mlp." in name for name in names)
    assert selection.findings == ()


@pytest.mark.parametrize("skip", ["*.mpl.*", "lm_head", "MODEL.*", "", "model.layers.0"])
def test_a_skip_that_matches_nothing_is_refused(tmp_path, tiny_model, skip):
    with pytest.raises(BadInput) as caught:
        chosen(tiny_model(tmp_path / "m"), skip=("*.mlp.*", skip))
    assert repr(skip) in caught.value.why
    assert "14 prunable layers" in caught.value.why


def test_skipping_everything_is_refused(tmp_path, tiny_model):
    with pytest.raises(BadInput, match="none of 14 layers is left"):
        chosen(tiny_model(tmp_path / "m"), skip=("*",))


def test_layers_whose_inputs_the_group_does_not_divide_are_findings(tmp_path, tiny_model):
    selection = chosen(tiny_model(tmp_path / "m", "ResNetForImageClassification"), pattern="2:4")
    skipped = {finding.subject for finding in selection.findings}
    assert "resnet.embedder.embedder.convolution" in skipped  # 1 x 7 x 7 inputs
    assert all(layer.inputs % 4 == 0 for layer in selection.layers)
    assert {finding.kind for finding in selection.findings} == {"skipped_layer"}


def test_a_pattern_that_fits_no_layer_is_refused_with_the_reason(tmp_path, tiny_model):
    with pytest.raises(BadInput, match="does not divide"):
        chosen(tiny_model(tmp_path / "m"), pattern="5:77")


def test_integer_weights_are_refused_by_name(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m")
    tensors = load_file(path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(torch.int8)
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(BadInput, match="already quantized") as caught:
        chosen(path)
    assert caught.value.tensor == name


def test_a_layer_knows_the_tensors_that_store_it(tmp_path, tiny_model):
    model = outline(tiny_model(tmp_path / "m"))
    for layer in prunable_layers(model.module):
        assert stored_names(model, layer) == (layer.weight,)

"""Sizes and multiply-adds, against counts made by hand."""

from __future__ import annotations

from tasks.loading.models import load, outline, prunable_layers
from tasks.measuring.measures import dense_flops, parameter_names


def test_a_perceptron_multiplies_every_weight_once_an_example(tmp_path, tiny_model):
    model = outline(tiny_model(tmp_path / "m", "MLPForClassification"))
    assert dense_flops(model) == 2 * (64 * 32 + 32 * 16 + 16 * 10)


def test_a_language_model_multiplies_every_layer_and_the_head_once_a_token(tmp_path, tiny_model):
    for architecture in ("LlamaForCausalLM", "GPT2LMHeadModel"):
        model = outline(tiny_model(tmp_path / architecture, architecture))
        layers = sum(layer.parameters for layer in prunable_layers(model.module))
        assert dense_flops(model) == 2 * (layers + 16 * 258)


def test_a_text_classifier_has_no_output_embedding(tmp_path, tiny_model):
    model = outline(tiny_model(tmp_path / "m", "BertForSequenceClassification"))
    assert dense_flops(model) == 2 * sum(layer.parameters for layer in prunable_layers(model.module))


def test_a_vision_transformer_applies_its_layers_to_every_patch(tmp_path, tiny_model):
    model = outline(tiny_model(tmp_path / "m", "ViTForImageClassification"))
    expected = 0
    for layer in prunable_layers(model.module):
        if "patch" in layer.name:
            expected += 2 * layer.parameters * 4  # 2 x 2 patches
        elif layer.name == "classifier":
            expected += 2 * layer.parameters
        else:
            expected += 2 * layer.parameters * 5  # and the class token
    assert dense_flops(model) == expected


def test_a_convolution_counts_its_places(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m", "ResNetForImageClassification", config={"image_size": 8})
    model = outline(path)
    first = prunable_layers(model.module)[0]
    small = dense_flops(model)
    assert small is not None
    assert small >= 2 * first.parameters * 16  # stride 2 on 8 x 8


def test_a_model_that_cannot_be_traced_without_data_has_unknown_flops(tmp_path, tiny_model):
    model = outline(tiny_model(tmp_path / "m", "MLPForClassification"))
    model.module.forward = lambda inputs: inputs.sum().item()
    assert dense_flops(model) is None
    del model.config.input_size
    assert dense_flops(model) is None


def test_parameters_are_counted_once_and_buffers_not_at_all(tmp_path, tiny_model):
    for architecture in ("LlamaForCausalLM", "GPT2LMHeadModel", "ResNetForImageClassification"):
        path = tiny_model(tmp_path / architecture, architecture)
        model = outline(path)
        counted = sum(model.checkpoint.entry(name).elements for name in parameter_names(model))
        assert counted == sum(parameter.numel() for parameter in load(path).module.parameters())

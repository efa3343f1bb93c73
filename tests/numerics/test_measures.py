"""Sizes and multiply-adds, against counts made by hand."""

from __future__ import annotations

from tasks.amounts.budgets import remains
from tasks.loading.experts import expert_layers, fused_weights
from tasks.loading.models import load, outline, prunable_layers
from tasks.measuring.measures import dense_flops, flops_by_layer, parameter_names


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


def test_of_fused_experts_as_many_count_as_a_token_is_sent_to(tmp_path, tiny_model):
    for chosen in (1, 2, 4):
        path = tiny_model(
            tmp_path / str(chosen), "MixtralForCausalLM", config={"num_experts_per_tok": chosen}
        )
        model = outline(path)
        fused = list(fused_weights(model.module))
        assert len(fused) == 4
        layers = sum(layer.parameters for layer in prunable_layers(model.module))
        each = sum(weight[0].numel() for _, _, weight in fused)
        assert dense_flops(model) == 2 * (layers + 16 * 258 + chosen * each)
        assert flops_by_layer(model)[fused[0][0]] == 2 * chosen * fused[0][2][0].numel()
        assert all("forward" not in vars(part) for _, part, _ in fused), "experts run again as they did"


def test_zeros_of_experts_take_from_the_work_as_if_all_were_chosen_equally_often(tmp_path, tiny_model):
    model = outline(tiny_model(tmp_path / "m", "MixtralForCausalLM"))
    layers, _ = expert_layers(model)
    whole = remains(model, layers, {})
    one, weight = layers[0], model.module.get_parameter(layers[0].weight)
    assert whole.flops == dense_flops(model)
    work = flops_by_layer(model)[one.weight]
    assert whole.flops - remains(model, layers, {one.name: one.parameters}).flops == (
        work * one.parameters // weight.numel()
    )
    none = remains(model, layers, {layer.name: layer.parameters for layer in layers})
    assert none.flops == whole.flops - sum(
        flops_by_layer(model)[name] for name, _, _ in fused_weights(model.module)
    )

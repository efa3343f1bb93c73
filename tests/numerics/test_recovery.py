"""Effects. Each way to win back what pruning cost, against a plain computation of the same, on tiny models."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from cases.model_files import NO_CONFIG
from torch import nn

from tasks.amounts.promises import loss_over
from tasks.contract import BadInput, Dataset
from tasks.examples.batches import batches, logits_of
from tasks.examples.data import read
from tasks.examples.fitting import fit
from tasks.loading.models import Layer, load_afresh, prunable_layers, rows_of
from tasks.recovering import recovery
from tasks.recovering.batchnorm import batch_norms, reestimate_
from tasks.recovering.bias import correct_, correction, mean_inputs
from tasks.recovering.distillation import Lessons, adam_step_, distill_, divergence
from tasks.recovering.recovery import recover_, split

FILES = {
    "LlamaForCausalLM": ("text", "text", ()),
    "GPT2LMHeadModel": ("text", "text", ()),
    "BertForSequenceClassification": ("sections", "text", ()),
    "BertModel": ("text", "text", ()),
    "MLPForClassification": ("arrays", "arrays", ()),
    "MLPForRegression": ("arrays", "arrays", ()),
    "ResNetForImageClassification": ("arrays", "arrays", (1, 8, 8)),
}


@pytest.fixture
def pair(tmp_path, tiny_model, tiny_data):
    """Architecture -> (dense model, pruned model, its layers, fitted examples)."""

    def make(architecture="LlamaForCausalLM", amount=0.5, dtype="float32", examples=12):
        name, kind, shape = FILES[architecture]
        path = tiny_model(tmp_path / "model", architecture, dtype=dtype)
        file = tiny_data(tmp_path / "data", examples)[name]
        dense, pruned = load_afresh(path), load_afresh(path)
        layers = prunable_layers(dense.module)
        for layer in layers:
            weight = pruned.module.get_parameter(layer.weight)
            count = max(1, int(amount * weight.numel()))
            threshold = weight.detach().float().abs().flatten().kthvalue(count).values
            weight.data = torch.where(weight.float().abs() > threshold, weight, torch.zeros_like(weight))
        data = Dataset(path=file, kind=kind, split="calibration", shape=shape)
        return dense, pruned, layers, fit(read(data), dense)

    return make


def values(model):
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def zeros(model, layers):
    return {layer.weight: model.module.get_parameter(layer.weight).detach() == 0 for layer in layers}


# --- batch norms


def test_every_norm_ends_with_the_statistics_of_what_it_is_given_then(pair):
    _, pruned, _, fitted = pair("ResNetForImageClassification")
    before = values(pruned)
    changed = reestimate_(pruned, fitted)
    assert len(changed) == 2 * len(batch_norms(pruned.module)) > 4
    seen = {}
    for name in batch_norms(pruned.module):
        pruned.module.get_submodule(name).register_forward_pre_hook(
            lambda _, given, name=name: seen.update({name: given[0].double()})
        )
    pixels = torch.stack([torch.from_numpy(item.content) for item in fitted.items])
    with torch.no_grad():
        pruned.module(pixel_values=pixels)
    after = values(pruned)
    for name, given in seen.items():
        torch.testing.assert_close(
            after[f"{name}.running_mean"].double(), given.mean((0, 2, 3)), rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            after[f"{name}.running_var"].double(), given.var((0, 2, 3)), rtol=1e-4, atol=1e-5
        )
    assert all(torch.equal(before[name], after[name]) for name in before if name not in changed)


@pytest.mark.parametrize("batch_tokens", [1, 3, 10_000])
def test_how_the_examples_are_batched_does_not_matter(pair, monkeypatch, batch_tokens):
    _, pruned, _, fitted = pair("ResNetForImageClassification")
    twin = replace(pruned, module=copy.deepcopy(pruned.module))
    reestimate_(pruned, fitted)
    monkeypatch.setattr("tasks.examples.batches.BATCH_TOKENS", batch_tokens)
    for name in reestimate_(twin, fitted):
        torch.testing.assert_close(twin.module.state_dict()[name], pruned.module.state_dict()[name])


def test_a_far_mean_does_not_swallow_the_variance():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, inputs):
            return self.norm(inputs)

    import numpy as np

    from tasks.examples.fitting import Fitted, Item
    from tasks.loading.models import Model

    rng = np.random.default_rng(0)
    rows = (1e4 + rng.normal(size=(50, 2))).astype(np.float32)
    model = Model(
        built_from=NO_CONFIG,
        module=Shifted().eval(), family="feature_classifier", config=None, path=None, checkpoint=None, naming=None
    )  # fmt: skip
    items = tuple(Item(number=at, slices={}, content=row) for at, row in enumerate(rows))
    reestimate_(model, Fitted(items=items))
    torch.testing.assert_close(model.module.norm.running_var, torch.tensor(rows).var(0), rtol=1e-4, atol=0)
    torch.testing.assert_close(model.module.norm.running_mean, torch.tensor(rows).mean(0))


def test_a_model_without_batch_norms_is_left_alone(pair):
    _, pruned, _, fitted = pair()
    before = values(pruned)
    assert reestimate_(pruned, fitted) == ()
    assert all(torch.equal(before[name], tensor) for name, tensor in values(pruned).items())


# --- biases


@pytest.mark.parametrize("architecture", ["MLPForClassification", "GPT2LMHeadModel"])
def test_a_corrected_layer_gives_the_dense_mean_on_the_dense_inputs(pair, architecture):
    dense, pruned, layers, fitted = pair(architecture)
    seen = {layer.name: [] for layer in layers}
    handles = [
        dense.module.get_submodule(layer.name).register_forward_pre_hook(
            lambda _, given, name=layer.name, inputs=layer.inputs: seen[name].append(
                given[0].detach().reshape(-1, inputs)
            )
        )
        for layer in layers
    ]
    with torch.no_grad():
        for batch in batches(fitted, dense, padded=False):
            logits_of(dense, batch)
    for handle in handles:
        handle.remove()
    changed, without = correct_(pruned.module, dense.module, layers, mean_inputs(dense, layers, fitted))
    assert (len(changed), without) == (len(layers), ())
    for layer in layers:
        inputs = torch.cat(seen[layer.name])
        with torch.no_grad():
            wanted = dense.module.get_submodule(layer.name)(inputs).mean(0)
            found = pruned.module.get_submodule(layer.name)(inputs).mean(0)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_are_corrected_over_all_places_and_by_group(groups):
    torch.manual_seed(0)
    convolution = nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=groups)
    weight = convolution.weight.detach()
    layer = Layer(
        name="c", weight="c.weight", shape=tuple(weight.shape), parameters=weight.numel(), outputs=6,
        inputs=4 * 9, groups=groups,
    )  # fmt: skip
    pruned = torch.where(torch.rand(weight.shape) > 0.5, weight, torch.zeros(()))
    inputs = torch.rand(5, 4, 7, 7)
    from tasks.statistics.hessians import unfolded

    mean = unfolded(convolution, inputs).double().mean(0)
    missing = correction(layer, weight, pruned, mean)
    with torch.no_grad():
        before = convolution(inputs).mean((0, 2, 3)).double()
        convolution.weight.copy_(pruned)
        after = convolution(inputs).mean((0, 2, 3)).double()
    torch.testing.assert_close(missing, before - after, rtol=1e-4, atol=1e-5)


def test_layers_without_a_bias_are_named(pair):
    dense, pruned, layers, fitted = pair()
    recovered = recover_(dense, pruned, layers, fitted, {"bias": True}, 0)
    assert recovered.changed == ()
    found = {finding.kind: finding.message for finding in recovered.findings}
    assert f"{len(layers)} of {len(layers)} layers have no bias" in found["no_bias"]
    assert recovered.rows[0]["kept"] is False


# --- distillation


LESSONS = Lessons(steps=16, learning_rate=3e-3, temperature=1.0, seed=0)


def distilled(pair_, lessons=LESSONS):
    dense, pruned, layers, fitted = pair_
    learning, held = split(fitted)
    names = recovery._trained(pruned, layers)
    return distill_(
        dense, pruned, zeros(pruned, layers), names, learning, lessons, lambda: loss_over(pruned, held)
    )


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "MLPForClassification", "MLPForRegression"])
def test_zeros_stay_and_the_loss_that_is_reported_is_that_of_the_model(pair, architecture):
    made = pair(architecture)
    dense, pruned, layers, fitted = made
    before, held_zeros, there = values(dense), zeros(pruned, layers), values(pruned)
    first = loss_over(pruned, split(fitted)[1])
    learned = distilled(made)
    assert learned.best <= first
    assert loss_over(pruned, split(fitted)[1]) == learned.best
    for name, mask in held_zeros.items():
        assert bool((pruned.module.get_parameter(name).detach()[mask] == 0).all())
    assert all(torch.equal(before[name], tensor) for name, tensor in values(dense).items())
    moved = {name for name, tensor in values(pruned).items() if not torch.equal(tensor, there[name])}
    assert moved == set(learned.changed)
    assert not any(parameter.requires_grad for parameter in pruned.module.parameters())


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "BertForSequenceClassification", "BertModel"])
def test_the_pruned_model_comes_nearer_to_the_dense_one(pair, architecture):
    dense, pruned, layers, fitted = pair(architecture)
    _, held = split(fitted)

    def away():
        with torch.no_grad():
            found = [
                (float(divergence(dense.family, logits_of(dense, b), logits_of(pruned, b), b, 1.0)), len(b.positions))
                for b in batches(held, dense)
            ]  # fmt: skip
        return sum(value * size for value, size in found) / sum(size for _, size in found)

    before = away()
    names = recovery._trained(pruned, layers)
    learned = distill_(
        dense, pruned, zeros(pruned, layers), names, split(fitted)[0], replace(LESSONS, steps=40), away
    )
    assert learned.step > 0
    assert away() == pytest.approx(learned.best)
    assert learned.best < 0.7 * before


def test_the_same_seed_learns_the_same_and_another_does_not(pair, monkeypatch):
    monkeypatch.setattr("tasks.examples.batches.BATCH_TOKENS", 200)
    made = pair(dtype="bfloat16")
    start = copy.deepcopy(made[1].module)
    found = []
    for seed in (1, 1, 2):
        twin = (made[0], replace(made[1], module=copy.deepcopy(start)), *made[2:])
        distilled(twin, replace(LESSONS, seed=seed, learning_rate=1e-2))
        found.append(values(twin[1]))
    assert all(torch.equal(found[0][name], tensor) for name, tensor in found[1].items())
    assert any(not torch.equal(found[0][name], tensor) for name, tensor in found[2].items())


def test_half_precision_stays_and_still_learns_by_small_steps(pair):
    made = pair(dtype="bfloat16")
    learned = distilled(made, replace(LESSONS, steps=60, learning_rate=1e-3))
    assert learned.step > 0
    assert {tensor.dtype for tensor in values(made[1]).values()} == {torch.bfloat16}


@pytest.mark.parametrize("rate", [1e3, 1e30])
def test_steps_that_ruin_the_model_are_not_kept(pair, rate):
    made = pair("MLPForClassification")
    there = values(made[1])
    learned = distilled(made, replace(LESSONS, learning_rate=rate))
    assert (learned.step, learned.changed) == (0, ())
    assert all(torch.equal(there[name], tensor) for name, tensor in values(made[1]).items())


def test_a_step_is_that_of_adamw_without_decay():
    torch.manual_seed(0)
    ours, theirs = torch.randn(7, 5), torch.empty(7, 5)
    theirs.copy_(ours).requires_grad_(True)
    optimizer = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.0)
    mean, square = torch.zeros_like(ours), torch.zeros_like(ours)
    for step in range(1, 9):
        gradient = torch.randn(7, 5)
        theirs.grad = gradient.clone()
        optimizer.step()
        adam_step_(ours, gradient, mean, square, step=step, learning_rate=0.01)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_divergence_of_texts_leaves_padding_and_the_last_token_out(pair):
    dense, pruned, _, fitted = pair()
    total = count = 0.0
    with torch.no_grad():
        for batch in batches(fitted, dense, 1):
            before, after = (logits_of(model, batch)[0, :-1].double() for model in (dense, pruned))
            p = before.softmax(-1)
            total += float((p * (before.log_softmax(-1) - after.log_softmax(-1))).sum())
            count += len(before)
        found = weight = 0.0
        for batch in batches(fitted, dense):
            asked = sum(length - 1 for length in batch.lengths)
            value = divergence("causal_lm", logits_of(dense, batch), logits_of(pruned, batch), batch, 1.0)
            found, weight = found + float(value) * asked, weight + asked
    assert weight == count
    assert found / weight == pytest.approx(total / count, rel=1e-4)


# --- all together


@pytest.mark.parametrize("architecture", FILES)
def test_recovery_never_makes_the_held_out_loss_worse_and_tells_each_step(pair, architecture):
    dense, pruned, layers, fitted = pair(architecture)
    held_zeros, there = zeros(pruned, layers), values(pruned)
    params = {
        "bias": True,
        "batch_norm": True,
        "distill": {"steps": 8, "learning_rate": 1e-3, "temperature": 2.0},
    }
    recovered = recover_(dense, pruned, layers, fitted, params, 0)
    assert [row["step"] for row in recovered.rows] == ["bias", "batch_norm", "distill"]
    for row in recovered.rows:
        assert row["loss_after"] <= row["loss_before"]
        assert row["kept"] == (row["loss_after"] < row["loss_before"])
    for first, second in zip(recovered.rows, recovered.rows[1:], strict=False):
        assert second["loss_before"] == pytest.approx(first["loss_after"])
    moved = {name for name, tensor in values(pruned).items() if not torch.equal(tensor, there[name])}
    assert moved <= set(recovered.changed)
    assert all(bool((values(pruned)[name][mask] == 0).all()) for name, mask in held_zeros.items())


def test_what_does_not_help_is_undone_to_the_bit(pair, monkeypatch):
    dense, pruned, layers, fitted = pair("ResNetForImageClassification")
    there = values(pruned)
    losses = iter([1.0, 2.0, 1.0, math.nan])
    monkeypatch.setattr(recovery, "loss_over", lambda model, fitted: next(losses))
    recovered = recover_(dense, pruned, layers, fitted, {"bias": True, "batch_norm": True}, 0)
    assert [row["kept"] for row in recovered.rows] == [False, False]
    assert [finding.subject for finding in recovered.findings if finding.kind == "no_recovery"] == [
        "bias",
        "batch_norm",
    ]
    assert all(torch.equal(there[name], tensor) for name, tensor in values(pruned).items())


@pytest.mark.parametrize(("size", "held"), [(2, [1]), (4, [3]), (5, [4]), (12, [4, 9])])
def test_a_fifth_of_the_examples_is_held_out(pair, size, held):
    *_, fitted = pair("MLPForClassification", examples=12)
    part = replace(fitted, items=fitted.items[:size])
    learning, out = split(part)
    assert [item.number for item in out.items] == held
    assert sorted(item.number for item in (*learning.items, *out.items)) == list(range(size))


def test_distillation_is_told_of_examples_that_it_never_saw(pair, monkeypatch):
    made = pair("MLPForClassification")
    dense, pruned, layers, fitted = made
    learned_from = []
    distill = recovery.distill_

    def watched(dense, pruned, masks, names, learning, lessons, measure):
        learned_from.extend(item.number for item in learning.items)
        return distill(dense, pruned, masks, names, learning, lessons, measure)

    monkeypatch.setattr(recovery, "distill_", watched)
    learning, held = split(fitted)
    fresh = replace(fitted, items=tuple(item for item in learning.items if item.number in (5, 11)))
    before = loss_over(pruned, fresh)
    lessons = {"steps": 16, "learning_rate": 3e-3, "temperature": 1.0}
    (row,) = recover_(dense, pruned, layers, fitted, {"distill": lessons}, 0).rows
    seen = {*learned_from, *(item.number for item in held.items)}
    assert {item.number for item in fitted.items} - seen == {item.number for item in fresh.items} == {5, 11}
    assert (row["fresh_before"], row["fresh_after"]) == (before, loss_over(pruned, fresh))
    assert row["fresh_samples"] == 2
    assert row["kept"]


def test_few_examples_have_no_second_fold_and_steps_of_averages_need_none(pair):
    dense, pruned, layers, fitted = pair("MLPForClassification")
    lessons = {"steps": 2, "learning_rate": 1e-3, "temperature": 1.0}
    few = replace(fitted, items=fitted.items[:5])
    for given, params in ((few, {"distill": lessons}), (fitted, {"bias": True})):
        (row,) = recover_(dense, pruned, layers, given, params, 0).rows
        assert (row["fresh_before"], row["fresh_after"], row["fresh_samples"]) == (None, None, 0)


def test_a_single_example_cannot_be_learned_from_and_held_out(pair):
    *_, fitted = pair("MLPForClassification")
    with pytest.raises(BadInput, match="no other to learn from"):
        split(replace(fitted, items=fitted.items[:1]))


def test_rows_are_views_of_the_weights_that_are_corrected():
    layer = Layer(name="l", weight="w", shape=(2, 3), parameters=6, outputs=3, inputs=2, transposed=True)
    dense, pruned = torch.arange(6.0).reshape(2, 3), torch.zeros(2, 3)
    mean = torch.tensor([1.0, 10.0], dtype=torch.float64)
    assert correction(layer, dense, pruned, mean).tolist() == [30.0, 41.0, 52.0]
    assert rows_of(layer, dense).shape == (3, 2)

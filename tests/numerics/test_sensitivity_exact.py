"""Effects. The grid of sensitivities against the naive one: prune a copy, run all of it, example by example."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from orchestrator.schemas import result_table
from tasks import allocation, pruning, replay, sensitivity
from tasks import batches as batching
from tasks.batches import batches
from tasks.calibration import input_norms
from tasks.contract import BadInput, Dataset, Work
from tasks.criteria import CRITERIA, Seen, norms_by_row
from tasks.data import read
from tasks.evaluation import score
from tasks.fitting import Fitted, fit
from tasks.models import Layer, Model, load, prunable_layers
from tasks.trials import Trials, pruned

ARCHITECTURES = (
    "LlamaForCausalLM",
    "GPT2LMHeadModel",
    "BertForSequenceClassification",
    "ViTForImageClassification",
    "ResNetForImageClassification",
    "MLPForClassification",
)
GRID = [0.0, 0.3, 0.75]


@pytest.fixture
def measure(tmp_path, tiny_model, tiny_data) -> Callable[..., Work]:
    """Architecture and params -> the work of measuring its tiny model."""

    def make(
        architecture: str,
        dtype: str = "float32",
        config: Mapping[str, Any] | None = None,
        part: int = 0,
        parts: int = 1,
        **params: Any,
    ) -> Work:
        files = tiny_data(tmp_path / "data")
        model = tiny_model(tmp_path / f"{architecture}-{dtype}", architecture, dtype=dtype, config=config)
        defaults = {
            "criterion": "magnitude",
            "pattern": "unstructured",
            "scope": "tensor",
            "skip": [],
            "grid": GRID,
            "metric": "loss",
        }
        return Work(
            model=model,
            params={**defaults, **params},
            datasets={"calibration": dataset_of(files, architecture)},
            part=part,
            parts=parts,
        )

    return make


def dataset_of(files: Mapping[str, Path], architecture: str) -> Dataset:
    if architecture in ("LlamaForCausalLM", "GPT2LMHeadModel"):
        return Dataset(path=files["text"], kind="text", split="calibration")
    if architecture.startswith("Bert"):
        return Dataset(path=files["sections"], kind="text", split="calibration")
    shape = () if architecture.startswith("MLP") else (1, 8, 8)
    return Dataset(path=files["arrays"], kind="arrays", split="calibration", shape=shape)


def rows_of(work: Work) -> Sequence[Any]:
    return sensitivity.run(work).tables["sensitivity"]


# --- the naive grid, written again


def naive_mask(scores: np.ndarray, amount: float, scope: str | None, pattern: str) -> np.ndarray:
    """Rows of scores -> what goes, by sorting (score, -index) pairs one scope at a time."""
    mask = np.zeros(scores.shape, bool)
    if pattern != "unstructured":
        kept, group = map(int, pattern.split(":"))
        parts = [
            (row, slice(start, start + group))
            for row in range(len(scores))
            for start in range(0, scores.shape[1], group)
        ]
        for row, columns in parts:
            order = sorted(range(group), key=lambda i: (-scores[row, columns][i], i))
            mask[row, columns][order[kept:]] = True
        return mask
    flat = mask.reshape(-1) if scope == "tensor" else None
    for part, values in [(flat, scores.reshape(-1))] if flat is not None else zip(mask, scores, strict=True):
        count = math.floor(amount * len(values) + 0.5)
        order = sorted(range(len(values)), key=lambda i: (values[i], -i))
        part[order[:count]] = True
    return mask


def naive_norms(model: Model, layer: Layer, fitted: Fitted) -> np.ndarray:
    """Norm of each input that each row sees, from every example run alone; convolutions unfolded by torch."""
    module, squares = model.module.get_submodule(layer.name), np.zeros(layer.inputs)

    def watch(part: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        inputs = given[0].double()
        if isinstance(part, nn.Conv2d):
            inputs = nn.functional.unfold(inputs, part.kernel_size, part.dilation, part.padding, part.stride)
            inputs = inputs.transpose(1, 2)
        squares[:] += inputs.reshape(-1, layer.inputs).square().sum(0).numpy()

    handle = module.register_forward_pre_hook(watch)
    for item in fitted.items:
        (batch,) = batches(Fitted(items=(item,)), model)
        score(model, batch)
    handle.remove()
    assert layer.groups == 1
    return np.sqrt(squares)


def naive_losses(model: Model, fitted: Fitted) -> np.ndarray:
    """Of each example, run alone and in full."""
    return np.array(
        [
            float(score(model, batch).losses[0])
            for item in fitted.items
            for batch in batches(Fitted(items=(item,)), model)
        ]
    )


def naive_grid(
    work: Work, losses_of: Callable[[Model, Fitted], np.ndarray] = naive_losses
) -> list[dict[str, Any]]:
    """Every cell with the whole model, the weights written to in place and read back from the file."""
    model = load(work.model)
    stored = load_file(work.model / "model.safetensors")
    fitted = fit(read(work.datasets["calibration"]), model)
    tokens = np.array([len(item.content) - 1 if model.family == "causal_lm" else 1 for item in fitted.items])
    dense = losses_of(model, fitted)
    pattern, scope = work.params["pattern"], work.params["scope"]
    amounts = (
        work.params["grid"] if pattern == "unstructured" else [1 - float(Fraction(pattern.replace(":", "/")))]
    )
    cells = []
    for layer in prunable_layers(model.module):
        norms = naive_norms(model, layer, fitted) if work.params["criterion"] == "wanda" else 1.0
        weight = model.module.get_parameter(layer.weight).data
        before = weight.clone()
        rows = (before.t() if layer.transposed else before.reshape(layer.outputs, -1)).float().abs().numpy()
        for amount in amounts:
            mask = torch.from_numpy(naive_mask(rows * norms, amount, scope, pattern))
            weight[(mask.t() if layer.transposed else mask.reshape(weight.shape))] = 0
            losses = losses_of(model, fitted)
            weight.copy_(before)
            changes = losses - dense
            delta = changes.sum() / tokens.sum()
            spread = ((changes - delta * tokens) ** 2).sum() * len(tokens) / (len(tokens) - 1)
            cells.append(
                {
                    "layer": layer.name,
                    "amount": amount,
                    "dense_value": dense.sum() / tokens.sum(),
                    "value": losses.sum() / tokens.sum(),
                    "delta": delta,
                    "stderr": math.sqrt(spread) / tokens.sum(),
                    "samples": len(tokens),
                    "tokens": tokens.sum(),
                    "parameters": weight.numel(),
                }
            )
        assert layer.weight not in stored or torch.equal(weight, stored[layer.weight])
    return cells


def same_batches(model: Model, fitted: Fitted) -> np.ndarray:
    """Losses of full runs of the same batches as the task's, so that they can be equal to the last bit."""
    losses = np.zeros(len(fitted.items))
    for batch in batches(fitted, model):
        losses[list(batch.positions)] = score(model, batch).losses.numpy()
    return losses


def assert_equal_grids(found: Sequence[Any], expected: Sequence[Any], **tolerance: float) -> None:
    assert [(row["layer"], row["amount"]) for row in found] == [
        (row["layer"], row["amount"]) for row in expected
    ]
    for row, wanted in zip(found, expected, strict=True):
        for name, value in wanted.items():
            if name != "layer":
                assert row[name] == pytest.approx(value, **tolerance), (row["layer"], row["amount"], name)


@pytest.mark.parametrize("criterion", ["magnitude", "wanda"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_cell_equals_the_naive_grid_run_example_by_example(measure, architecture, criterion):
    scope = "row" if criterion == "wanda" else "tensor"
    work = measure(architecture, criterion=criterion, scope=scope)
    assert_equal_grids(rows_of(work), naive_grid(work), rel=2e-5, abs=3e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_skipping_blocks_changes_no_bit_of_any_cell(measure, monkeypatch, architecture, dtype):
    monkeypatch.setattr(batching, "BATCH_TOKENS", 200)
    work = measure(architecture, dtype)
    product = sensitivity.run(work)
    assert "no_prefix_reuse" not in [finding.kind for finding in product.findings]
    assert_equal_grids(product.tables["sensitivity"], naive_grid(work, same_batches), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("pattern", ["2:4", "1:2", "4:8"])
@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_a_group_pattern_has_the_one_amount_that_it_implies_whatever_the_grid(measure, architecture, pattern):
    work = measure(architecture, pattern=pattern, scope=None)
    rows = rows_of(work)
    assert {row["amount"] for row in rows} == {0.5}
    assert {row["pattern"] for row in rows} == {pattern}
    assert_equal_grids(rows, naive_grid(work), rel=2e-5, abs=3e-6)


def test_layers_that_a_group_pattern_does_not_fit_are_findings_and_no_rows(measure):
    work = measure("ResNetForImageClassification", pattern="2:4", scope=None)
    product = sensitivity.run(work)
    tried = {row["layer"] for row in product.tables["sensitivity"]}
    skipped = {finding.subject for finding in product.findings if finding.kind == "skipped_layer"}
    layers = prunable_layers(load(work.model).module)
    assert skipped == {layer.name for layer in layers if layer.inputs % 4}
    assert skipped
    assert tried == {layer.name for layer in layers} - skipped


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_weights_come_back_bit_by_bit_and_the_file_never_changes(measure, architecture):
    work = measure(architecture, "bfloat16", criterion="wanda", scope="row")
    before = (work.model / "model.safetensors").read_bytes()
    model = load(work.model)
    kept = {name: (tensor, tensor.clone()) for name, tensor in model.module.state_dict().items()}
    rows_of(work)
    assert load(work.model) is model
    after = model.module.state_dict()
    assert after.keys() == kept.keys()
    for name, (tensor, bits) in kept.items():
        assert after[name].data_ptr() == tensor.data_ptr()
        assert torch.equal(after[name].reshape(-1).view(torch.uint8), bits.reshape(-1).view(torch.uint8))
    assert (work.model / "model.safetensors").read_bytes() == before
    assert all("forward" not in vars(part) for part in model.module.modules())
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in model.module.modules())


def test_a_trial_that_fails_half_way_leaves_the_model_as_it_was(measure, monkeypatch):
    work = measure("LlamaForCausalLM")
    model = load(work.model)
    before = dict(model.module.named_parameters())
    calls = []

    def fail_late(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 9:
            raise MemoryError("no memory left")
        return score(*given)

    monkeypatch.setattr(replay, "score", fail_late)
    with pytest.raises(MemoryError):
        sensitivity.run(work)
    assert all(parameter is before[name] for name, parameter in model.module.named_parameters())
    assert all("forward" not in vars(part) for part in model.module.modules())
    assert all(not part._forward_hooks for part in model.module.modules())


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "ResNetForImageClassification"])
@pytest.mark.parametrize("parts", [1, 2, 3, 5, 40])
def test_the_parts_together_are_the_whole(measure, architecture, parts):
    whole = rows_of(measure(architecture, criterion="wanda", scope="row"))
    pieces = [
        row
        for part in range(parts)
        for row in rows_of(measure(architecture, criterion="wanda", scope="row", part=part, parts=parts))
    ]
    assert pieces == whole


def test_an_empty_part_reads_no_data(measure, tmp_path):
    work = measure("MLPForClassification", part=5, parts=40)
    nowhere = Dataset(path=tmp_path / "none", kind="arrays", split="all")
    empty = Work(model=work.model, params=work.params, datasets={"calibration": nowhere}, part=5, parts=40)
    product = sensitivity.run(empty)
    assert product.tables == {"sensitivity": ()}
    assert product.findings == []


def test_the_rows_fit_the_results_schema_and_name_their_recipe(measure):
    work = measure("LlamaForCausalLM", criterion="wanda", scope="row")
    rows = rows_of(work)
    assert result_table("sensitivity", {"sensitivity": rows}).num_rows == len(rows)
    assert {row["method"] for row in rows} == {"exact"}
    assert {row["criterion"] for row in rows} == {"wanda"}
    assert {row["metric"] for row in rows} == {"loss"}
    assert all(row["group"] == row["layer"] for row in rows)
    assert all(row["samples"] == 12 for row in rows)


def test_nothing_pruned_changes_nothing_and_is_no_finding(measure):
    work = measure("LlamaForCausalLM", grid=[0.0])
    product = sensitivity.run(work)
    assert {(row["delta"], row["stderr"]) for row in product.tables["sensitivity"]} == {(0.0, 0.0)}
    assert product.findings == []


def test_an_effect_of_exactly_zero_is_a_finding_that_names_layer_and_amounts(measure):
    work = measure("MLPForClassification", grid=[0.0, 0.001, 0.5])
    product = sensitivity.run(work)
    found = {
        finding.subject: finding.message for finding in product.findings if finding.kind == "zero_effect"
    }
    assert "layers.2" in found  # 0.001 of its 160 weights is none
    assert "0.001 " in found["layers.2"]
    assert "0.5" not in found["layers.2"]


def test_a_layer_without_influence_is_measured_and_doubted_at_every_amount(measure):
    work = measure("MLPForClassification")
    file = work.model / "model.safetensors"
    tensors = load_file(file)
    tensors["layers.1.weight"].zero_()
    save_file(tensors, file, metadata={"format": "pt"})
    product = sensitivity.run(work)
    assert {row["delta"] for row in product.tables["sensitivity"] if row["layer"] == "layers.0"} == {0.0}
    found = {
        finding.subject: finding.message for finding in product.findings if finding.kind == "zero_effect"
    }
    assert "at 0.3, 0.75 " in found["layers.0"]


def test_a_layer_to_skip_is_not_tried(measure):
    work = measure("LlamaForCausalLM", skip=["*.mlp.*"], grid=[0.5])
    assert {row["layer"].split(".")[-2] for row in rows_of(work)} == {"self_attn"}


def test_a_skip_that_matches_nothing_is_refused(measure):
    with pytest.raises(BadInput, match="matches none"):
        rows_of(measure("LlamaForCausalLM", skip=["*.experts.*"]))


def test_an_unknown_criterion_is_refused(measure):
    with pytest.raises(BadInput, match="'best' is unknown"):
        rows_of(measure("LlamaForCausalLM", criterion="best"))


def test_a_dense_loss_that_is_not_finite_is_refused_with_its_example(measure):
    work = measure("MLPForClassification")
    model = load(work.model)
    model.module.register_forward_hook(lambda module, given, logits: logits * float("nan"))
    with pytest.raises(BadInput, match=r"it is nan on this example, and so on 12 of 12 in row 1"):
        rows_of(work)


def test_a_pruned_loss_that_is_not_finite_is_left_empty_and_said(measure):
    work = measure("MLPForClassification", grid=[0.0, 1.0])
    model = load(work.model)

    def overflow(module: Any, given: Any, logits: torch.Tensor) -> torch.Tensor:
        return logits / float(module.layers[1].weight.abs().sum() > 0)

    model.module.register_forward_hook(overflow)
    product = sensitivity.run(work)
    rows = {(row["layer"], row["amount"]): row for row in product.tables["sensitivity"]}
    assert rows["layers.1", 0.0]["delta"] == 0.0
    assert rows["layers.1", 1.0].get("value") is rows["layers.1", 1.0].get("delta") is None
    (finding,) = [finding for finding in product.findings if finding.kind == "non_finite_loss"]
    assert finding.subject == "layers.1"
    assert "pruned at 1 " in finding.message


def test_the_same_work_gives_the_same_rows_to_the_last_bit(measure):
    work = measure("BertForSequenceClassification", criterion="wanda", scope="row")
    assert rows_of(work) == rows_of(work)


def test_what_the_trial_zeroes_is_what_the_prune_task_zeroes(measure, tmp_path):
    for architecture in ARCHITECTURES:
        work = measure(architecture, criterion="wanda", scope="row", grid=[0.4])
        model = load(work.model)
        output = tmp_path / f"pruned-{architecture}"
        output.mkdir()
        params = {"criterion": "wanda", "pattern": "unstructured", "scope": "row", "amount": 0.4, "skip": []}
        params |= {"allocation": "uniform", "max_amount": 1.0}
        pruning.run(Work(model=work.model, params=params, datasets=work.datasets, output=output))
        model = load(work.model)
        written = load(output).module.state_dict()
        layers = prunable_layers(model.module)
        squares = input_norms(model, layers, work.datasets["calibration"]).squares
        trials = Trials(
            criterion=CRITERIA["wanda"],
            pattern="unstructured",
            scope="row",
            amounts=[0.4],
            seen_by=lambda layer, squares=squares: Seen(norms=norms_by_row(layer, squares[layer.name])),
        )
        for layer in layers:
            ((_, mask),) = trials.masks(layer, model.module.get_parameter(layer.weight))
            with pruned(model.module, layer, mask):
                assert torch.equal(model.module.get_parameter(layer.weight), written[layer.weight]), (
                    layer.name
                )


def test_the_allocation_can_be_made_from_the_rows(measure):
    work = measure("LlamaForCausalLM", grid=[0.3, 0.6, 0.9])
    layers = {layer.name: layer.parameters for layer in prunable_layers(load(work.model).module)}
    found = allocation.by_sensitivity(layers, rows_of(work), 0.5, 0.9)
    assert found.amounts.keys() == layers.keys()


# --- what is saved


def count_calls(model: Model, ending: str) -> list[int]:
    calls = [0]
    for name, part in model.module.named_modules():
        if name.endswith(ending):
            part.register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    return calls


def test_a_deep_model_runs_little_more_than_half_of_the_naive_blocks(measure):
    depth, amounts = 8, [0.2, 0.4, 0.6, 0.8]
    work = measure("LlamaForCausalLM", config={"num_hidden_layers": depth}, grid=amounts)
    calls = count_calls(load(work.model), "mlp")
    rows = rows_of(work)
    layers = len({row["layer"] for row in rows})
    assert layers == 7 * depth
    naive = (1 + layers * len(amounts)) * depth
    ideal = (depth + 1) / (2 * depth)
    assert calls[0] / naive < ideal + 0.04


def test_without_memory_every_trial_runs_in_full_and_says_so(measure, monkeypatch):
    work = measure("LlamaForCausalLM")
    expected = rows_of(work)
    monkeypatch.setattr(replay, "MEMORY_BYTES", 10)
    product = sensitivity.run(work)
    assert product.tables["sensitivity"] == expected
    (finding,) = product.findings
    assert finding.kind == "no_prefix_reuse"
    assert finding.subject == "LlamaForCausalLM"


def test_with_little_memory_some_batches_run_in_full_with_equal_results(measure, monkeypatch):
    monkeypatch.setattr(batching, "BATCH_TOKENS", 200)
    work = measure("LlamaForCausalLM")
    expected = rows_of(work)
    monkeypatch.setattr(replay, "MEMORY_BYTES", 2 * 30_000)
    product = sensitivity.run(work)
    assert product.tables["sensitivity"] == expected
    (finding,) = product.findings
    assert "batches run the whole model for lack of memory" in finding.message


def test_without_a_chain_of_blocks_every_trial_runs_in_full_and_says_so(measure, monkeypatch):
    work = measure("LlamaForCausalLM")
    expected = rows_of(work)
    monkeypatch.setattr(sensitivity, "chain_of", lambda model, batch: ())
    product = sensitivity.run(work)
    assert product.tables["sensitivity"] == expected
    assert [finding.kind for finding in product.findings] == ["no_prefix_reuse"]

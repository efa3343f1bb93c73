"""Effects. The grid of sensitivities against the naive one, the weights it leaves behind, and its parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases.architectures import ARCHITECTURES
from cases.calibrations import input_norms
from cases.naive_grids import assert_equal_grids, naive_grid, rows_of, same_batches

from tasks import pruning, sensitivity
from tasks.contract import Work
from tasks.evaluation import score
from tasks.examples import batches as batching
from tasks.loading.models import Model, load, prunable_layers
from tasks.masks.criteria import CRITERIA, Seen, norms_by_row
from tasks.replaying import grids, replay
from tasks.replaying.trials import Trials, replaced


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


@pytest.mark.parametrize(
    ("architecture", "parts"),
    [
        *(("LlamaForCausalLM", parts) for parts in (1, 3, 5)),
        *(("ResNetForImageClassification", parts) for parts in (2, 40)),  # 40: more than there are layers
    ],
)
def test_the_parts_together_are_the_whole(measure, architecture, parts):
    whole = rows_of(measure(architecture, criterion="wanda", scope="row"))
    pieces = [
        row
        for part in range(parts)
        for row in rows_of(measure(architecture, criterion="wanda", scope="row", part=part, parts=parts))
    ]
    assert pieces == whole


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
            ((_, value),) = trials.weights(layer, model.module.get_parameter(layer.weight))
            with replaced(model.module, layer, value):
                assert torch.equal(model.module.get_parameter(layer.weight), written[layer.weight]), (
                    layer.name
                )


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
    monkeypatch.setattr(grids, "chain_of", lambda model, batch: ())
    product = sensitivity.run(work)
    assert product.tables["sensitivity"] == expected
    assert [finding.kind for finding in product.findings] == ["no_prefix_reuse"]

"""Effects. Recovery inside the prune task: what is written is what was recovered, and nothing else moved."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.tables.schemas import result_table, rows_of
from tasks import evaluation, pruning
from tasks.contract import BadInput, Dataset, Work
from tasks.loading.models import load, outline, prunable_layers
from tasks.loading.weights import open_checkpoint
from tasks.writing.recount import ArtifactWrong, digest_of, recount
from tasks.writing.rewriting import rewrite

FILES = {
    "LlamaForCausalLM": ("text", "text", ()),
    "MLPForClassification": ("arrays", "arrays", ()),
    "ResNetForImageClassification": ("arrays", "arrays", (1, 8, 8)),
}
DISTILL = {"steps": 12, "learning_rate": 3e-3, "temperature": 1.0}


@pytest.fixture
def work_of(tmp_path, tiny_model, tiny_data):
    """(architecture, recover, prune params) -> the work of pruning and recovering."""

    def make(architecture, recover, dtype="float32", **params):
        name, kind, shape = FILES[architecture]
        data = Dataset(path=tiny_data(tmp_path / "d")[name], kind=kind, split="calibration", shape=shape)
        mask = {"criterion": "magnitude", "pattern": "unstructured", "scope": "tensor", "amount": 0.5}
        (tmp_path / "out").mkdir()
        return Work(
            model=tiny_model(tmp_path / "m", architecture, dtype=dtype),
            params={**mask, **params, **({"recover": recover} if recover else {})},
            datasets={"calibration": data},
            output=tmp_path / "out",
        )

    return make


@pytest.mark.parametrize(
    ("architecture", "recover", "params"),
    [
        ("LlamaForCausalLM", {"distill": DISTILL}, {}),
        ("LlamaForCausalLM", {"distill": DISTILL}, {"criterion": "sparsegpt"}),
        ("LlamaForCausalLM", {"distill": DISTILL}, {"pattern": "2:4", "scope": None, "amount": None}),
        ("MLPForClassification", {"bias": True, "distill": DISTILL}, {}),
        ("ResNetForImageClassification", {"batch_norm": True}, {}),
    ],
)
def test_zeros_stay_and_what_no_step_touched_keeps_its_bytes(
    work_of, tmp_path, architecture, recover, params
):
    work = work_of(architecture, recover, **params)
    plain = tmp_path / "plain"
    plain.mkdir()
    before = replace(work, params={k: v for k, v in work.params.items() if k != "recover"}, output=plain)
    first, product = pruning.run(before), pruning.run(work)
    masked, found = (load_file(path / "model.safetensors") for path in (plain, work.output))
    layers = {layer.weight for layer in prunable_layers(outline(work.model).module)}
    moved = {name for name in found if not torch.equal(masked[name], found[name])}
    kept = sum(row["tensors"] for row in product.tables["recoveries"] if row["kept"])
    assert len(moved) <= kept
    assert bool(moved) == any(row["kept"] for row in product.tables["recoveries"])
    for name in layers:
        assert bool((found[name][masked[name] == 0] == 0).all())
    for one, other in zip(first.tables["layers"], product.tables["layers"], strict=True):
        assert other["pruned_parameters"] >= one["pruned_parameters"]
    assert not list(work.output.parent.glob("*.recovered"))
    assert sorted(p.name for p in plain.iterdir()) == sorted(p.name for p in work.output.iterdir())
    stored = result_table("prune", dict(product.tables))
    assert [row["step"] for row in rows_of(stored, "recoveries")] == [
        step for step in ("bias", "batch_norm", "distill") if recover.get(step)
    ]


def test_what_was_distilled_is_what_is_loaded(work_of):
    work = work_of("LlamaForCausalLM", {"distill": DISTILL})
    (row,) = pruning.run(work).tables["recoveries"]
    assert row["kept"]
    data = work.datasets["calibration"]
    rows = evaluation.run(Work(model=work.output, params={}, datasets={"evaluation": data})).tables[
        "outcomes"
    ]
    held = [r for index, r in enumerate(rows) if index % 5 == 4]
    assert row["samples"] == len(held)
    assert sum(r["loss"] for r in held) / sum(r["tokens"] for r in held) == pytest.approx(
        row["loss_after"], rel=1e-6
    )
    assert load(work.output).findings == ()


def test_the_dtype_of_the_file_stays(work_of):
    work = work_of("LlamaForCausalLM", {"distill": {**DISTILL, "steps": 30}}, dtype="bfloat16")
    pruning.run(work)
    assert {tensor.dtype for tensor in load_file(work.output / "model.safetensors").values()} == {
        torch.bfloat16
    }


def test_a_budget_is_measured_after_recovery(work_of):
    work = work_of("LlamaForCausalLM", None)
    from tasks import sensitivity

    mask = {key: work.params[key] for key in ("criterion", "pattern", "scope")} | {"skip": []}
    rows = sensitivity.run(replace(work, params={**mask, "grid": [0.3, 0.6]})).tables["sensitivity"]
    params = {**mask, "allocation": "knapsack", "max_amount": 0.9, "budget": {"parameters": 0.8}}
    params |= {"recover": {"distill": DISTILL}}
    product = pruning.run(replace(work, params=params, inputs={"sensitivity": rows}))
    (artifact,), (recovered,) = product.tables["artifacts"], product.tables["recoveries"]
    assert recovered["loss_after"] <= recovered["loss_before"]
    assert artifact["nonzero_parameters"] <= 0.8 * artifact["dense_parameters"]
    assert artifact["measured_increase"] < artifact["predicted_increase"] + 1.0


def test_without_calibration_data_nothing_can_be_recovered(work_of):
    with pytest.raises(BadInput, match="no calibration data"):
        pruning.run(replace(work_of("MLPForClassification", {"bias": True}), datasets={}))


# --- what guards the files


def test_a_tensor_that_no_layer_is_must_have_its_digest(work_of):
    work = work_of("MLPForClassification", None)
    pruning.run(work)
    model = load(work.output)
    model.module.get_parameter("layers.0.bias").data += 1.0
    digests = rewrite(work.output, model, ["layers.0.bias"])
    dense, pruned = open_checkpoint(work.model), open_checkpoint(work.output)
    assert digests == {"layers.0.bias": digest_of(pruned.mapped("layers.0.bias"))}
    with pytest.raises(ArtifactWrong, match="was not to change"):
        recount(dense, pruned, {})
    wrong = dict.fromkeys(dense.names, "0")
    with pytest.raises(ArtifactWrong, match="other bytes than were to be written"):
        recount(dense, pruned, {}, wrong)
    assert recount(dense, pruned, {}, {name: digest_of(pruned.mapped(name)) for name in dense.names}) == {}


def test_what_is_not_finite_is_never_written(work_of):
    work = work_of("MLPForClassification", None)
    pruning.run(work)
    there = (work.output / "model.safetensors").read_bytes()
    model = load(work.output)
    model.module.get_parameter("layers.0.bias").data = torch.full((32,), torch.inf)
    with pytest.raises(ArtifactWrong, match="not finite"):
        rewrite(work.output, model, ["layers.0.bias"])
    assert (work.output / "model.safetensors").read_bytes() == there

"""Programs of torch.export through every task: as the models that they were made from, tensor by tensor."""

from __future__ import annotations

import pytest
import torch
from cases.programs import export, members_of, program_of
from cases.prunings import calibration, kinds, prune, rows

from tasks import evaluation, latency, sensitivity
from tasks.contract import BadInput, Dataset, Work
from tasks.files.layouts import read_layout
from tasks.loading.weights import open_checkpoint

KINDS = {
    "LlamaForCausalLM": "text",
    "MLPForClassification": "arrays",
    "ResNetForImageClassification": "pictures",
}


@pytest.fixture(scope="module")
def pairs(tiny_model, tmp_path_factory):
    """Model directory and program directory of each architecture."""
    root = tmp_path_factory.mktemp("pairs")
    models = {name: tiny_model(root / name / "model", name) for name in KINDS}
    return {name: (model, program_of(model, root / name / "program")) for name, model in models.items()}


def data_for(architecture, tiny_data, directory, split="calibration"):
    kind = KINDS[architecture]
    found = calibration(tiny_data, directory, "text" if kind == "text" else "arrays")
    shape = (1, 8, 8) if kind == "pictures" else found.shape
    return Dataset(path=found.path, kind=found.kind, split=split, shape=shape, slices=())


def renamed(name):
    return name.removeprefix("net.")


@pytest.mark.parametrize(
    ("architecture", "params"),
    [
        ("MLPForClassification", {"criterion": "magnitude", "amount": 0.3}),
        ("LlamaForCausalLM", {"criterion": "wanda", "amount": 0.5}),
        ("ResNetForImageClassification", {"criterion": "wanda", "pattern": "2:4"}),
        ("LlamaForCausalLM", {"criterion": "sparsegpt", "amount": 0.5}),
        ("ResNetForImageClassification", {"criterion": "sparsegpt", "amount": 0.5}),
        ("MLPForClassification", {"criterion": "taylor", "amount": 0.4}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_the_same_weights_go_as_from_the_model(pairs, tiny_data, tmp_path, architecture, params):
    data = {"calibration": data_for(architecture, tiny_data, tmp_path / "data")}
    model, program = pairs[architecture]
    of_model = prune(model, tmp_path / "a", datasets=data, **params)
    of_program = prune(program, tmp_path / "b", datasets=data, **params)
    theirs, ours = rows(of_model), {renamed(name): row for name, row in rows(of_program).items()}
    assert ours.keys() == theirs.keys()
    for name, row in ours.items():
        assert row["pruned_parameters"] == theirs[name]["pruned_parameters"], name
    dense, pruned = open_checkpoint(tmp_path / "a"), open_checkpoint(tmp_path / "b")
    shared = [name for name in pruned.names if renamed(name) in dense.names]
    assert len(shared) == len(dense.names)
    for name in shared:
        torch.testing.assert_close(pruned.read(name), dense.read(renamed(name)), rtol=1e-5, atol=1e-6)
        assert torch.equal(pruned.read(name) == 0, dense.read(renamed(name)) == 0), name


@pytest.mark.parametrize("architecture", KINDS)
def test_sensitivity_and_quality_are_those_of_the_model(pairs, tiny_data, tmp_path, architecture):
    params = {
        "metric": "loss",
        "grid": [0.3, 0.7],
        "criterion": "wanda",
        "pattern": "unstructured",
        "scope": "row",
        "skip": [],
    }
    data = data_for(architecture, tiny_data, tmp_path / "data")
    found = []
    for path in pairs[architecture]:
        product = sensitivity.run(Work(model=path, params=params, datasets={"calibration": data}))
        found.append(
            {(renamed(row["layer"]), row["amount"]): row["delta"] for row in product.tables["sensitivity"]}
        )
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) >= 6
    for key, delta in found[0].items():
        assert found[1][key] == pytest.approx(delta, abs=1e-5), key
    held_out = data_for(architecture, tiny_data, tmp_path / "data", "test")
    told = [
        evaluation.run(Work(model=path, params={}, datasets={"evaluation": held_out}))
        for path in pairs[architecture]
    ]
    one, other = (product.tables["outcomes"] for product in told)
    assert len(one) == len(other) > 0
    for first, second in zip(one, other, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], abs=1e-5)


def test_what_is_written_is_loaded_by_torch_and_answers_as_counted(pairs, tiny_data, tmp_path):
    _, program = pairs["MLPForClassification"]
    data = {"calibration": data_for("MLPForClassification", tiny_data, tmp_path / "data")}
    product = prune(program, tmp_path / "out", datasets=data, criterion="wanda", verify="reload")
    loaded = torch.export.load(tmp_path / "out" / "model.pt2")
    for row in product.tables["layers"]:
        weight = loaded.state_dict[f"{row['layer']}.weight"]
        assert int((weight == 0).sum()) == row["pruned_parameters"]
    assert "skipped_file" in kinds(product)
    assert members_of(tmp_path / "out" / "model.pt2")["data/sample_inputs/model.pt"] == b""


def test_recovery_writes_programs_too(pairs, tiny_data, tmp_path):
    _, program = pairs["ResNetForImageClassification"]
    data = {"calibration": data_for("ResNetForImageClassification", tiny_data, tmp_path / "data")}
    recover = {"batch_norm": True, "bias": True}
    product = prune(program, tmp_path / "out", datasets=data, amount=0.6, recover=recover)
    steps = {row["step"] for row in product.tables["recoveries"]}
    assert {"batch_norm", "bias"} <= steps
    assert torch.export.load(tmp_path / "out" / "model.pt2") is not None


def test_the_speed_of_a_program_is_measured(pairs, tiny_data, tmp_path):
    _, program = pairs["MLPForClassification"]
    prune(program, tmp_path / "out")
    params = {"repetitions": 6, "batch": 2, "sequence": 8}
    data = {"evaluation": data_for("MLPForClassification", tiny_data, tmp_path / "data", "test")}
    work = Work(model=tmp_path / "out", dense=program, params=params, datasets=data)
    product = latency.run(work)
    [row] = product.tables["latencies"]
    assert row["seconds"] > 0
    assert row["dense_seconds"] > 0


def test_units_cannot_be_cut_from_a_program(pairs, tmp_path):
    _, program = pairs["MLPForClassification"]
    with pytest.raises(BadInput, match=r"model\.pt2.*widths are fixed in its graph"):
        prune(program, tmp_path / "out", cut={"width": 0.5})


def test_a_weight_file_beside_a_program_is_the_model(pairs, tmp_path, tiny_model):
    _, program = pairs["MLPForClassification"]
    both = tiny_model(tmp_path / "both", "MLPForClassification")
    (both / "model.pt2").write_bytes((program / "model.pt2").read_bytes())
    layout = read_layout(both)
    assert [file.path.name for file in layout.files] == ["model.safetensors"]
    assert layout.format == "safetensors"
    assert read_layout(program).format == "pt2"


def test_half_precision_stays(tmp_path, tiny_data):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10)).to(
            torch.bfloat16
        )
    (tmp_path / "program").mkdir()
    export(module, {"input": torch.randn(2, 64, dtype=torch.bfloat16)}, tmp_path / "program" / "model.pt2")
    (tmp_path / "program" / "config.json").write_text('{"architectures": ["Sequential"]}')
    data = {"calibration": data_for("MLPForClassification", tiny_data, tmp_path / "data")}
    prune(tmp_path / "program", tmp_path / "out", datasets=data, criterion="wanda")
    loaded = torch.export.load(tmp_path / "out" / "model.pt2").state_dict
    assert {weight.dtype for weight in loaded.values()} == {torch.bfloat16}
    assert int((loaded["0.weight"] == 0).sum()) == 512

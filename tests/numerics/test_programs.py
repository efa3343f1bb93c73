"""Programs of torch.export, run by our own interpreter: against torch's loader, and against the model they came from."""

from __future__ import annotations

import json

import pytest
import torch
from cases.architectures import ARCHITECTURES
from cases.programs import example_of, export, members_of, program_of
from cases.prunings import prune
from torch import nn

from tasks.contract import BadInput
from tasks.loading.models import load_afresh, outline, prunable_layers


@pytest.fixture(scope="module")
def exported(tiny_model, tmp_path_factory):
    """Model directory and program directory of each architecture, made when asked for."""
    root, made = tmp_path_factory.mktemp("programs"), {}

    def make(architecture):
        if architecture not in made:
            tied = {"tie_word_embeddings": True} if architecture == "LlamaForCausalLM" else {}
            model = tiny_model(root / architecture / "model", architecture, config=tied)
            made[architecture] = model, program_of(model, root / architecture / "program")
        return made[architecture]

    return make


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_answers_are_those_of_torchs_own_loader_to_the_bit(exported, architecture):
    _, directory = exported(architecture)
    model = load_afresh(directory)
    theirs = torch.export.load(directory / "model.pt2").module()
    for members in (1, 3):
        example = example_of(model.family, members)
        with torch.inference_mode():
            assert torch.equal(model.module(**example), theirs(**example))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_program_is_the_kind_of_model_that_it_was_made_from(exported, architecture):
    original, directory = (load_afresh(path) for path in exported(architecture))
    assert directory.family == original.family
    ours = {layer.name.removeprefix("net."): layer for layer in prunable_layers(directory.module)}
    theirs = {layer.name: layer for layer in prunable_layers(original.module)}
    if (
        architecture == "GPT2LMHeadModel"
    ):  # its weights are stored the other way round, for a layer torch has not
        assert ours == {}
        return
    assert ours.keys() == theirs.keys()
    for name, layer in ours.items():
        assert (layer.shape, layer.outputs, layer.inputs, layer.groups) == (
            theirs[name].shape, theirs[name].outputs, theirs[name].inputs, theirs[name].groups,
        )  # fmt: skip


def test_an_outline_reads_no_weight(exported):
    _, directory = exported("LlamaForCausalLM")
    module = outline(directory).module
    assert {weight.device.type for weight in (*module.parameters(), *module.buffers())} == {"meta"}


class Branches(nn.Module):
    """What the architectures above do not have: weights used twice, constants, pieces, changes in place, sizes in sums."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(8, 8)
        self.pair = nn.Linear(8, 8, bias=False)
        self.free = nn.Parameter(torch.randn(8, 8))
        self.grouped = nn.Conv1d(4, 4, 3, padding="same", groups=2)
        self.quick = nn.ReLU(inplace=True)
        self.register_buffer("shift", torch.arange(8.0), persistent=False)
        self.fixed = torch.tensor([1.0, -float("inf")])

    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.quick(self.twice(self.twice(inputs)))
        first, second = hidden.split([3, 5], dim=1)
        mixed = torch.cat([second, first], 1) @ self.free + self.shift * inputs.shape[0]
        wide = self.grouped(mixed.reshape(inputs.shape[0], 4, 2)).flatten(1)
        top, places = torch.topk(wide, 2, dim=1)
        bounded = torch.maximum(self.pair(wide), self.fixed[1:])
        return {"places": places, "logits": bounded + top.sum(1, keepdim=True)}


@pytest.fixture(scope="module")
def branches(tmp_path_factory):
    directory = tmp_path_factory.mktemp("branches")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Branches()
    export(module, {"inputs": torch.randn(2, 8)}, directory / "model.pt2")
    (directory / "config.json").write_text('{"architectures": ["Branches"]}')
    return module.eval(), directory


def test_shared_layers_constants_pieces_and_changes_in_place(branches):
    module, directory = branches
    model = load_afresh(directory)
    inputs = torch.randn(5, 8)
    with torch.inference_mode():
        assert torch.equal(model.module(inputs=inputs), module(inputs)["logits"])
        assert torch.equal(model.module(inputs), module(inputs)["logits"])
    layers = {layer.name: layer for layer in prunable_layers(model.module)}
    assert layers.keys() == {"twice", "pair", "grouped"}
    assert layers["grouped"].groups == 2
    assert model.family == "feature_classifier"
    assert (model.config.num_labels, model.config.input_size) == (8, 8)


def test_pruning_leaves_an_infinity_in_a_constant_alone(branches, tmp_path):
    _, directory = branches
    product = prune(directory, tmp_path / "out")
    loaded = load_afresh(tmp_path / "out").module
    for row in product.tables["layers"]:
        assert int((loaded.get_submodule(row["layer"]).weight == 0).sum()) == row["pruned_parameters"] > 0
    assert loaded.fixed.tolist() == [1.0, -float("inf")]


def test_a_layer_that_is_used_twice_is_watched_twice(branches):
    _, directory = branches
    model = load_afresh(directory)
    seen = []
    model.module.get_submodule("twice").register_forward_hook(lambda *_: seen.append(1))
    with torch.inference_mode():
        model.module(torch.randn(3, 8))
    assert len(seen) == 2


def test_weights_that_share_memory_are_stored_and_loaded_once(exported):
    tied, program = (load_afresh(path) for path in exported("LlamaForCausalLM"))
    embedding, head = program.module.get_input_embeddings(), program.module.get_output_embeddings()
    assert head is not None
    assert embedding.weight.data_ptr() == head.weight.data_ptr()
    counts = [sum(weight.numel() for weight in model.module.parameters()) for model in (tied, program)]
    assert counts[0] == counts[1]
    names = [layer.name for layer in prunable_layers(program.module)]
    assert names
    assert not any("lm_head" in name or "embed" in name for name in names)


def test_a_program_for_one_example_answers_one_after_the_other(tiny_model, tmp_path):
    path = tiny_model(tmp_path / "model", "ResNetForImageClassification")
    model = load_afresh(program_of(path, tmp_path / "program", varies=False))
    example = example_of("image_classifier", 5)
    with torch.inference_mode():
        together = model.module(**example)
        apart = [model.module(pixel_values=example["pixel_values"][[place]]) for place in range(5)]
    assert torch.equal(together, torch.cat(apart))


def test_a_program_for_batches_of_one_size_takes_no_other(tmp_path):
    export(nn.Linear(4, 3), {"input": torch.randn(6, 4)}, tmp_path / "model.pt2", varies=False)
    (tmp_path / "config.json").write_text('{"architectures": ["Linear"]}')
    model = load_afresh(tmp_path)
    with torch.inference_mode():
        assert model.module(torch.randn(6, 4)).shape == (6, 3)
        with pytest.raises(BadInput, match="batches of 6 examples, and 5 are given"):
            model.module(torch.randn(5, 4))


def test_the_config_says_what_shapes_do_not(tmp_path):
    export(nn.Linear(4, 1), {"input": torch.randn(2, 4)}, tmp_path / "model.pt2")
    config = tmp_path / "config.json"
    config.write_text('{"architectures": ["Linear"]}')
    assert load_afresh(tmp_path).family == "feature_regressor"
    config.write_text('{"architectures": ["Linear"], "family": "feature_encoder"}')
    assert load_afresh(tmp_path).family == "feature_encoder"
    config.write_text('{"architectures": ["Linear"], "family": "oracle"}')
    with pytest.raises(BadInput, match="'oracle'.*feature_classifier"):
        load_afresh(tmp_path)


class Unusual(nn.Module):
    """A module whose export does what no program may, by name."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.layer = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.layer(inputs)
        match self.kind:
            case "random":
                return hidden + torch.rand_like(hidden)
            case "dropout":
                return nn.functional.dropout(hidden, 0.5, training=True)
            case "counts":
                self.count.add_(1)
            case "view in place":
                hidden.view(-1).relu_()
            case "uninitialized":
                return hidden + torch.empty_like(hidden)
            case "autocast":
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    return self.layer(inputs).float()
        return hidden


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("random", "rand_like"),
        ("dropout", "as in training"),
        ("counts", "changes 'b_count', which other steps see too"),
        ("view in place", "changes .* which other steps see too"),
        ("uninitialized", "empty_like"),
        ("autocast", "autocast"),
    ],
)
def test_a_program_that_does_what_none_may_is_refused_by_name(tmp_path, kind, words):
    export(Unusual(kind), {"inputs": torch.randn(2, 4)}, tmp_path / "model.pt2")
    (tmp_path / "config.json").write_text('{"architectures": ["Unusual"]}')
    with pytest.raises(BadInput, match=words):
        load_afresh(tmp_path)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_a_program_that_changes_itself_is_refused_in_functional_form_too(tmp_path):
    program = torch.export.export(Unusual("counts").eval(), (torch.randn(2, 4),)).run_decompositions()
    torch.export.save(program, tmp_path / "model.pt2")
    (tmp_path / "config.json").write_text('{"architectures": ["Unusual"]}')
    with pytest.raises(BadInput, match="running it changes it .buffer_mutation"):
        load_afresh(tmp_path)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_a_program_in_core_operators_answers_as_the_module(branches, tmp_path):
    module, _ = branches
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, (torch.randn(2, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program.run_decompositions(), tmp_path / "model.pt2")
    (tmp_path / "config.json").write_text('{"architectures": ["Branches"]}')
    inputs = torch.randn(7, 8)
    with torch.inference_mode():
        torch.testing.assert_close(load_afresh(tmp_path).module(inputs), module(inputs)["logits"])


def test_a_size_that_was_not_exported_is_refused_with_the_step(exported):
    _, directory = exported("ViTForImageClassification")
    model = load_afresh(directory)
    with torch.inference_mode(), pytest.raises(BadInput, match="its step torch.ops.aten"):
        model.module(pixel_values=torch.randn(2, 1, 12, 12))


def test_nan_in_a_weight_is_refused_and_infinity_in_a_constant_is_not(branches, tmp_path):
    module, _ = branches
    broken = Branches()
    broken.load_state_dict(module.state_dict())
    with torch.no_grad():
        broken.pair.weight[0, 0] = float("nan")
    export(broken, {"inputs": torch.randn(2, 8)}, tmp_path / "model.pt2")
    (tmp_path / "config.json").write_text('{"architectures": ["Branches"]}')
    with pytest.raises(BadInput, match="pair.weight"):
        load_afresh(tmp_path)


def test_what_is_in_a_program_is_what_torch_writes(exported):
    _, directory = exported("MLPForClassification")
    members = members_of(directory / "model.pt2")
    assert json.loads(members["models/model.json"])["schema_version"]["major"] == 8
    assert members["byteorder"] == b"little"

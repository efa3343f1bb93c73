"""Experts of fused weights: pruned where they are stored, scored by what is routed to them, and left alone if nothing is."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tasks import pruning, sensitivity
from tasks.contract import BadInput, Dataset, Product, Work
from tasks.examples.batches import batches, logits_of
from tasks.examples.data import read
from tasks.examples.fitting import fit
from tasks.loading.experts import expert_layers
from tasks.loading.models import load, outline, rows_of, weight_in
from tasks.masks.criteria import CRITERIA, Seen, layer_score, norms_by_row
from tasks.masks.patterns import mask_of, pruned_count
from tasks.masks.selection import select_layers
from tasks.statistics.calibration import input_norms_over
from tasks.writing.recount import ArtifactWrong

SIZES = {
    "vocab_size": 258,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.2,
    "max_position_embeddings": 128,
    "pad_token_id": 256,
    "bos_token_id": 257,
    "eos_token_id": None,
}
MODELS = {
    "mixtral": ("MixtralForCausalLM", {"intermediate_size": 24, "num_local_experts": 4, "num_experts_per_tok": 1}),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        {
            "intermediate_size": 32, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 8,
            "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1,
        },
    ),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        {"intermediate_size": 32, "moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    ),
    "gpt_oss": (
        "GptOssForCausalLM",
        {"intermediate_size": 24, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    ),
}  # fmt: skip


@pytest.fixture
def make_model(tmp_path, tiny_model):
    """A tiny mixture of experts in the layout in which transformers saves it, with a tokenizer."""

    def make(kind: str, dtype: str = "float32", **values):
        name, sizes = MODELS[kind]
        path = tiny_model(tmp_path / kind)
        (path / "model.safetensors").unlink()
        torch.manual_seed(3)
        config = transformers.CONFIG_MAPPING[kind](**{**SIZES, **sizes, **values})
        getattr(transformers, name)(config).to(getattr(torch, dtype)).save_pretrained(path)
        return path

    return make


@pytest.fixture
def text(tmp_path, tiny_data):
    return Dataset(path=tiny_data(tmp_path / "data")["text"], kind="text", split="calibration")


def prune(path, output, data=None, **params) -> Product:
    output.mkdir()
    defaults = {
        "criterion": "magnitude",
        "pattern": "unstructured",
        "scope": "row",
        "amount": 0.5,
        "skip": [],
    }
    params = {**defaults, "allocation": "uniform", "max_amount": 1.0, **params}
    return pruning.run(
        Work(model=path, params=params, datasets={"calibration": data} if data else {}, output=output)
    )


def experts_of(product: Product) -> dict[str, dict]:
    return {row["layer"]: dict(row) for row in product.tables["layers"] if ".experts." in row["layer"]}


def logits(path) -> torch.Tensor:
    """By plain transformers, from the directory alone."""
    model = transformers.AutoModelForCausalLM.from_pretrained(path, local_files_only=True).eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(60).reshape(2, 30)).logits


@pytest.mark.parametrize("kind", MODELS)
def test_every_expert_is_a_layer_whose_stored_part_is_its_part_of_the_parameter(make_model, kind):
    path = make_model(kind)
    model = load(path)
    layers, findings = expert_layers(model)
    assert not findings
    assert sum(layer.parameters for layer in layers) == sum(
        weight.numel()
        for name, weight in model.module.named_parameters()
        if "experts" in name and weight.dim() == 3 and "shared" not in name
    )
    stored = load_file(path / "model.safetensors")
    for layer in layers:
        tensor = stored[layer.place.tensor]
        part = tensor if layer.place.index is None else tensor[layer.place.index]
        assert torch.equal(part, weight_in(model.module, layer)), layer.name
        assert rows_of(layer, part).shape == (layer.outputs, layer.inputs)
    assert len({layer.name for layer in layers}) == len(layers)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    ("pattern", "dtype"), [("unstructured", "bfloat16"), ("2:4", "float32"), ("block:4x4", "float32")]
)
def test_experts_are_pruned_in_the_stored_tensors_and_transformers_loads_just_that(
    make_model, tmp_path, kind, pattern, dtype
):
    path = make_model(kind, dtype)
    is_n_of_m = pattern == "2:4"
    product = prune(
        path,
        tmp_path / "out",
        pattern=pattern,
        scope=None if is_n_of_m else "tensor",
        amount=None if is_n_of_m else 0.3,
    )
    model = load(path)
    layers = select_layers(model, pattern, ()).layers
    assert {row["layer"] for row in product.tables["layers"]} == {layer.name for layer in layers}
    assert experts_of(product)
    before, after = (load_file(directory / "model.safetensors") for directory in (path, tmp_path / "out"))
    expected = {name: tensor.clone() for name, tensor in before.items()}
    for layer in layers:
        tensor = expected[layer.place.tensor if layer.place else layer.weight]
        rows = rows_of(
            layer, tensor[layer.place.index] if layer.place and layer.place.index is not None else tensor
        )
        rows.masked_fill_(
            mask_of(rows.abs(), None if is_n_of_m else 0.3, pattern, None if is_n_of_m else "tensor"), 0.0
        )
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], expected[name]) for name in after)
    masked = load(path).module
    with torch.no_grad():
        for layer in layers:
            stored = after[layer.place.tensor if layer.place else layer.weight]
            weight_in(masked, layer).copy_(
                stored[layer.place.index] if layer.place and layer.place.index is not None else stored
            )
        found = masked(input_ids=torch.arange(60).reshape(2, 30), use_cache=False).logits
    assert torch.equal(found, logits(tmp_path / "out"))
    assert not torch.equal(found, logits(path))
    artifact = product.tables["artifacts"][0]
    assert artifact["nonzero_parameters"] == sum(int(torch.count_nonzero(value)) for value in after.values())


def test_a_dozen_experts_are_not_mistaken_for_one_another(make_model, tmp_path):
    path = make_model("mixtral", num_local_experts=12)
    model = load(path)
    with torch.no_grad():
        found = model.module(input_ids=torch.arange(60).reshape(2, 30), use_cache=False).logits
    assert torch.equal(found, logits(path))
    stored = load_file(path / "model.safetensors")
    for layer in expert_layers(model)[0]:
        assert torch.equal(stored[layer.place.tensor], weight_in(model.module, layer)), layer.name


def squares_by_hand(model, fitted) -> dict[tuple[str, int, str], tuple[torch.Tensor, int]]:
    """By the block's own router: the inputs of each expert's two products, for each expert of a Mixtral."""
    found: dict = {}

    def watch(name):
        def hook(part, given):
            hidden, chosen = given[0], given[1]
            for expert in range(part.num_experts):
                rows = hidden[(chosen == expert).any(-1)]
                if len(rows) == 0:
                    continue
                gate, up = (rows @ part.gate_up_proj[expert].t()).chunk(2, -1)
                inner = part.act_fn(gate) * up
                for kind, value in (("gate_up_proj", rows), ("down_proj", inner)):
                    total, count = found.get((name, expert, kind), (0.0, 0))
                    found[name, expert, kind] = total + value.double().square().sum(0), count + len(value)

        return hook

    handles = [
        part.register_forward_pre_hook(watch(name))
        for name, part in model.module.named_modules()
        if name.endswith("experts")
    ]
    with torch.no_grad():
        for batch in batches(fitted, model, padded=False):
            logits_of(model, batch)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_each_expert_is_scored_by_the_tokens_that_are_routed_to_it(make_model, tmp_path, text, kind):
    path = make_model(kind)
    model = load(path)
    fitted = fit(read(text), model)
    layers, _ = expert_layers(model)
    choice = vars(model.module.config).get("_experts_implementation_internal")
    statistics = input_norms_over(model, layers, fitted)
    assert vars(model.module.config).get("_experts_implementation_internal") == choice
    by_hand = squares_by_hand(model, fitted)
    reached = 0
    for layer in layers:
        block, _, leaf = layer.weight.rpartition(".")
        squares, count = by_hand.get((block, layer.place.expert, leaf), (None, 0))
        assert statistics.tokens.get(layer.name, 0) == count
        if count:
            reached += 1
            torch.testing.assert_close(statistics.squares[layer.name], squares, rtol=1e-4, atol=1e-8)
    assert reached
    product = prune(path, tmp_path / "out", text, criterion="wanda")
    assert experts_of(product).keys() == statistics.squares.keys()
    after = load_file(tmp_path / "out" / "model.safetensors")
    for layer in layers:
        if layer.name not in statistics.squares:
            continue
        weight = weight_in(model.module, layer)
        seen = Seen(norms=norms_by_row(layer, statistics.squares[layer.name]))
        mask = mask_of(layer_score(CRITERIA["wanda"], layer, weight, seen), 0.5, "unstructured", "row")
        assert torch.equal(after[layer.place.tensor], weight.masked_fill(mask, 0.0))


def test_transposed_experts_with_biases_are_seen_too(make_model, text):
    model = load(make_model("gpt_oss"))
    layers, _ = expert_layers(model)
    assert all(layer.transposed for layer in layers)
    fitted = fit(read(text), model)
    tokens = input_norms_over(model, layers, fitted).tokens
    per_block = sum(len(item.content) for item in fitted.items) * 2
    for block in range(2):
        for leaf in ("gate_up_proj", "down_proj"):
            hits = [tokens.get(f"model.layers.{block}.mlp.experts.{leaf}.{expert}", 0) for expert in range(4)]
            assert sum(hits) == per_block


def starve(path, expert: int) -> None:
    """Lets the router of every block send nothing to one expert."""
    tensors = load_file(path / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("gate.weight"):
            others = [row for row in range(len(tensor)) if row != expert]
            tensor[expert] = tensor[others].mean(0)  # below the highest of the others, whatever the token
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


def test_an_expert_that_no_token_reaches_is_left_alone_by_name(make_model, tmp_path, text):
    path = make_model("mixtral")
    starve(path, 2)
    product = prune(path, tmp_path / "out", text, criterion="wanda")
    skipped = {f.subject: f.message for f in product.findings if f.kind == "skipped_layer"}
    starved = {
        f"model.layers.{block}.block_sparse_moe.experts.2.{w}"
        for block in range(2)
        for w in ("w1", "w2", "w3")
    }
    names = {name for name in skipped if ".experts." in name}
    assert starved <= names
    assert all("no calibration example reaches it" in skipped[name] for name in starved)
    assert not names & experts_of(product).keys()
    before, after = (load_file(directory / "model.safetensors") for directory in (path, tmp_path / "out"))
    assert all(torch.equal(before[f"{name}.weight"], after[f"{name}.weight"]) for name in names)
    told = {f.subject: f.message for f in product.findings if f.kind == "expert_tokens"}
    assert told.keys() == {"model.layers.0.mlp.experts", "model.layers.1.mlp.experts"}
    assert all(", 2: 0" in message for message in told.values())


def test_an_expert_that_too_few_tokens_reach_is_left_alone_if_asked(make_model, tmp_path, text):
    path = make_model("mixtral")
    model = load(path)
    tokens = input_norms_over(model, expert_layers(model)[0], fit(read(text), model)).tokens
    least = sorted(set(tokens.values()))[-1]
    product = prune(path, tmp_path / "some", text, criterion="wanda", min_tokens=least)
    assert {name for name, count in tokens.items() if count >= least} == experts_of(product).keys()
    messages = [f.message for f in product.findings if f.kind == "skipped_layer"]
    assert any(f"calibration tokens reach it, and min_tokens is {least}" in message for message in messages)
    with pytest.raises(BadInput, match="there is nothing to prune"):
        prune(path, tmp_path / "none", text, criterion="wanda", min_tokens=10**6)


@pytest.mark.parametrize("criterion", ["sparsegpt", "taylor", "fisher"])
def test_criteria_that_do_not_look_into_experts_leave_them_alone_by_name(
    make_model, tmp_path, text, criterion
):
    product = prune(make_model("mixtral"), tmp_path / "out", text, criterion=criterion)
    assert not experts_of(product)
    assert product.tables["layers"]
    messages = [f.message for f in product.findings if ".experts." in f.subject and f.kind == "skipped_layer"]
    assert len(messages) == 2 * 4 * 3
    assert all(f"which {criterion} does not look into" in message for message in messages)


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_one_ranking_goes_over_experts_too(make_model, tmp_path, kind):
    path = make_model(kind)
    rows = prune(path, tmp_path / "out", scope="model", amount=0.4).tables["layers"]
    total = sum(row["parameters"] for row in rows)
    assert sum(row["pruned_parameters"] for row in rows) == pruned_count(0.4, total)
    model = outline(path)
    assert [row["layer"] for row in rows] == [
        layer.name for layer in select_layers(model, "unstructured", ()).layers
    ]


def test_experts_can_be_skipped_by_pattern(make_model, tmp_path):
    path = make_model("gpt_oss")
    product = prune(path, tmp_path / "out", skip=["*experts.down_proj.[12]", "*.self_attn.*"])
    down = {name for name in experts_of(product) if "down_proj" in name}
    assert down == {
        f"model.layers.{block}.mlp.experts.down_proj.{expert}" for block in range(2) for expert in (0, 3)
    }
    before, after = (load_file(directory / "model.safetensors") for directory in (path, tmp_path / "out"))
    name = "model.layers.0.mlp.experts.down_proj"
    assert torch.equal(before[name][1], after[name][1])
    assert not torch.equal(before[name][0], after[name][0])


def test_a_change_of_an_expert_that_was_to_stay_is_found(make_model, tmp_path, monkeypatch):
    import tasks.writing.accounts

    check = tasks.writing.accounts.recount

    def blind(dense, pruned, written, retouched):
        written = {
            name: [m for m in members if not (m.layer.place and m.layer.place.index == 1)]
            for name, members in written.items()
        }
        return check(dense, pruned, written, retouched)

    monkeypatch.setattr(tasks.writing.accounts, "recount", blind)
    with pytest.raises(ArtifactWrong, match="expert 1 of .* was not to change and did"):
        prune(make_model("gpt_oss"), tmp_path / "out")


@pytest.mark.parametrize("criterion", ["magnitude", "wanda"])
def test_a_trial_of_an_expert_is_what_the_prune_task_writes_and_leaves_nothing_behind(
    make_model, tmp_path, text, monkeypatch, criterion
):
    path = make_model("mixtral")
    starve(path, 1)
    product = prune(path, tmp_path / "out", text, criterion=criterion, amount=0.4)
    after = load(tmp_path / "out").module
    written = {
        layer.name: weight_in(after, layer).clone() for layer in expert_layers(load(tmp_path / "out"))[0]
    }
    module = load(path).module
    before = {name: value.clone() for name, value in module.state_dict().items()}
    replaced, tried = sensitivity.replaced, {}

    def watch(module, layer, value):
        tried[layer.name] = value.clone()
        return replaced(module, layer, value)

    monkeypatch.setattr(sensitivity, "replaced", watch)
    params = {
        "criterion": criterion,
        "pattern": "unstructured",
        "scope": "row",
        "skip": [],
        "grid": [0.4],
        "metric": "loss",
    }
    found = sensitivity.run(Work(model=path, params=params, datasets={"calibration": text}))
    assert all(torch.equal(value, before[name]) for name, value in load(path).module.state_dict().items())
    experts = {name for name in tried if ".experts." in name}
    assert experts
    assert all(torch.equal(tried[name], written[name]) for name in experts)
    assert not any(".experts.1." in row["layer"] for row in found.tables["sensitivity"])
    if criterion == "wanda":
        assert experts == experts_of(product).keys()
    rows = {row["layer"]: row for row in found.tables["sensitivity"]}
    assert any(rows[name]["delta"] != 0 for name in experts)


def test_experts_in_modules_of_their_own_follow_the_same_rule(make_model, tmp_path, text):
    """Qwen2's shared expert and attention are plain layers; its fused experts are listed beside them, in module order."""
    path = make_model("qwen2_moe")
    names = [layer.name for layer in select_layers(outline(path), "unstructured", ()).layers]
    first = [name for name in names if name.startswith("model.layers.0.")]
    last = [name for name in names if name.startswith("model.layers.1.")]
    assert names == first + last
    assert any("shared_expert.up_proj" in name for name in first)
    assert json.loads((path / "config.json").read_text())["num_experts"] == 4
    product = prune(path, tmp_path / "out", text, criterion="activation", min_tokens=2)
    assert any("shared_expert" in row["layer"] for row in product.tables["layers"])

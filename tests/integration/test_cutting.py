"""Cutting whole units out of models of every family: what is left is a smaller dense model that plain transformers loads."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

from tasks import pruning
from tasks.contract import BadInput, Dataset, Work

VOCABULARY = 64
BLOCKS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**BLOCKS, "vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SHARED = {**TEXT, "num_key_value_heads": 2}
MOE = {"num_experts_per_tok": 2}
IMAGE = {"num_channels": 1, "num_labels": 3}
MODELS = {
    "LlamaForCausalLM": SHARED,
    "Qwen2ForCausalLM": SHARED,
    "Phi3ForCausalLM": SHARED,
    "GPT2LMHeadModel": {
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "bos_token_id": 1,
        "eos_token_id": 1,
    },
    "GPTNeoXForCausalLM": TEXT,
    "OPTForCausalLM": {**TEXT, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "MixtralForCausalLM": {**SHARED, **MOE, "num_local_experts": 4},
    "Qwen2MoeForCausalLM": {
        **SHARED,
        **MOE,
        "num_experts": 4,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 40,
    },
    "BertForSequenceClassification": {**TEXT, "num_labels": 3},
    "DistilBertForSequenceClassification": {
        "vocab_size": VOCABULARY,
        "dim": 32,
        "hidden_dim": 48,
        "n_layers": 2,
        "n_heads": 4,
        "num_labels": 3,
    },
    "ViTForImageClassification": {**BLOCKS, **IMAGE, "image_size": 16, "patch_size": 4},
    "ResNetForImageClassification": {**IMAGE, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1]},
    "ConvNextForImageClassification": {
        **IMAGE,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "num_stages": 2,
        "image_size": 32,
    },
}
BASIC = {"layer_type": "basic"}
CAN = {
    "width": {
        "LlamaForCausalLM",
        "Qwen2ForCausalLM",
        "Phi3ForCausalLM",
        "GPT2LMHeadModel",
        "GPTNeoXForCausalLM",
        "OPTForCausalLM",
        "MixtralForCausalLM",
        "Qwen2MoeForCausalLM",
        "BertForSequenceClassification",
        "DistilBertForSequenceClassification",
        "ViTForImageClassification",
    },
    "heads": {
        "LlamaForCausalLM",
        "Qwen2ForCausalLM",
        "Phi3ForCausalLM",
        "MixtralForCausalLM",
        "Qwen2MoeForCausalLM",
        "ViTForImageClassification",
    },
    "experts": {"MixtralForCausalLM", "Qwen2MoeForCausalLM"},
    "channels": {"ResNetForImageClassification", "ConvNextForImageClassification"},
}
CAN["depth"] = CAN["width"]
SHARE = {"width": 0.25, "heads": 0.5, "experts": 0.5, "channels": 0.25, "depth": 0.5}


@pytest.fixture
def make(tmp_path):
    """Writes an untrained model whose weights are all different, with save_pretrained."""

    def make(architecture, dtype=torch.float32, **more):
        kind = getattr(transformers, architecture)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            values = {**MODELS[architecture], **(BASIC if "ResNet" in architecture else {}), **more}
            module = kind(kind.config_class(**values)).eval()
            with torch.no_grad():
                for weight in module.parameters():
                    weight.add_(0.1 * torch.randn_like(weight))
        path = tmp_path / "model"
        module.to(dtype).save_pretrained(path)
        return path

    return make


def cut(model, out, data=None, **params):
    """Runs the prune task; (its product, the directory that it wrote)."""
    out.mkdir()
    params = {"criterion": "magnitude", **params}
    datasets = {"calibration": data} if data else {}
    return pruning.run(Work(model=model, params=params, datasets=datasets, output=out)), out


def reopened(path):
    """As any user of transformers opens it: nothing missing, nothing unexpected, nothing of another shape."""
    architecture = json.loads((path / "config.json").read_text())["architectures"][0]
    module, told = getattr(transformers, architecture).from_pretrained(path, output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
    return module.eval()


def answers(module):
    """On a fixed input."""
    draw = torch.Generator().manual_seed(5)
    with torch.inference_mode():
        if "Image" in type(module).__name__:
            return module(pixel_values=torch.randn(2, 1, module.config.image_size, 16, generator=draw)).logits
        return module(input_ids=torch.randint(3, VOCABULARY, (1, 10), generator=draw)).logits


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("kind", CAN)
def test_what_is_left_is_smaller_and_loads_in_plain_transformers_or_is_refused(
    make, tmp_path, architecture, kind
):
    model = make(architecture)
    if architecture not in CAN[kind]:
        with pytest.raises(BadInput):
            cut(model, tmp_path / "out", cut={kind: SHARE[kind]})
        return
    product, out = cut(model, tmp_path / "out", cut={kind: SHARE[kind]})
    (artifact,) = product.tables["artifacts"]
    module = reopened(out)
    assert artifact["parameters"] == sum(weight.numel() for weight in module.parameters())
    assert artifact["parameters"] < artifact["dense_parameters"]
    assert artifact["bytes"] < artifact["dense_bytes"]
    assert artifact["nonzero_parameters"] <= artifact["parameters"]
    assert all(
        0 < row["pruned_parameters"] < row["parameters"] or kind == "depth"
        for row in product.tables["layers"]
    )
    inseparable = [finding for finding in product.findings if finding.kind == "inseparable_units"]
    assert bool(inseparable) == architecture.startswith("ConvNext")


def zeroed_by_hand(model, removed):
    """The dense Llama with the columns of o_proj or down_proj of removed units set to zero."""
    module = reopened(model)
    with torch.no_grad():
        for layer, (name, columns) in removed:
            part = module.get_submodule(f"model.layers.{layer}.{name}")
            part.weight[:, columns] = 0
    return module


def test_the_units_of_a_llama_that_go_are_those_of_least_norm_and_nothing_else_changes(make, tmp_path):
    model = make("LlamaForCausalLM")
    _, out = cut(model, tmp_path / "out", cut={"width": 0.25})
    dense, small = reopened(model).state_dict(), reopened(out).state_dict()
    removed = []
    for layer in range(2):
        parts = [f"model.layers.{layer}.mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
        gate, up, down = (dense[name].double() for name in parts)
        norms = gate.square().sum(1) + up.square().sum(1) + down.square().sum(0)
        stay = norms.argsort(descending=True)[:36].sort().values
        for name, piece in zip(parts, (gate[stay], up[stay], down[:, stay]), strict=True):
            assert torch.equal(small[name].double(), piece)
        removed.append((layer, ("mlp.down_proj", norms.argsort()[:12])))
    others = [name for name in dense if ".mlp." not in name]
    assert all(torch.equal(dense[name], small[name]) for name in others)
    torch.testing.assert_close(
        answers(reopened(out)), answers(zeroed_by_hand(model, removed)), atol=1e-5, rtol=0
    )


def test_a_head_of_keys_and_values_goes_with_all_queries_that_share_it(make, tmp_path):
    model = make("LlamaForCausalLM")
    _, out = cut(model, tmp_path / "out", cut={"heads": 0.5})
    dense, small = reopened(model).state_dict(), reopened(out).state_dict()
    config = json.loads((out / "config.json").read_text())
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (2, 1, 8)
    for layer in range(2):
        start = f"model.layers.{layer}.self_attn."
        keys = dense[f"{start}k_proj.weight"]
        (kept,) = (
            head for head in (0, 1) if torch.equal(keys[8 * head :][:8], small[f"{start}k_proj.weight"])
        )
        queries = slice(16 * kept, 16 * kept + 16)
        assert torch.equal(dense[f"{start}q_proj.weight"][queries], small[f"{start}q_proj.weight"])
        assert torch.equal(dense[f"{start}o_proj.weight"][:, queries], small[f"{start}o_proj.weight"])


def test_each_expert_loses_its_own_neurons(make, tmp_path):
    model = make("MixtralForCausalLM")
    _, out = cut(model, tmp_path / "out", cut={"width": 0.5}, round_to=8)
    dense, small = load_file(model / "model.safetensors"), load_file(out / "model.safetensors")
    chosen = set()
    for expert in range(4):
        start = f"model.layers.0.block_sparse_moe.experts.{expert}."
        first, second, third = (dense[f"{start}w{n}.weight"].double() for n in (1, 2, 3))
        norms = first.square().sum(1) + third.square().sum(1) + second.square().sum(0)
        stay = norms.argsort(descending=True)[:24].sort().values
        assert torch.equal(small[f"{start}w1.weight"].double(), first[stay])
        assert torch.equal(small[f"{start}w2.weight"].double(), second[:, stay])
        assert torch.equal(small[f"{start}w3.weight"].double(), third[stay])
        chosen.add(tuple(stay.tolist()))
    assert len(chosen) == 4


def test_experts_go_with_their_rows_of_the_router(make, tmp_path):
    model = make("MixtralForCausalLM")
    _, out = cut(model, tmp_path / "out", cut={"experts": 0.5})
    dense, small = load_file(model / "model.safetensors"), load_file(out / "model.safetensors")
    assert json.loads((out / "config.json").read_text())["num_local_experts"] == 2
    for layer in range(2):
        start = f"model.layers.{layer}.block_sparse_moe."
        router, left = dense[f"{start}gate.weight"], small[f"{start}gate.weight"]
        kept = [int((router == row).all(1).nonzero()[0, 0]) for row in left]
        assert kept == sorted(kept)
        for new, old in enumerate(kept):
            for name in ("w1", "w2", "w3"):
                assert torch.equal(
                    small[f"{start}experts.{new}.{name}.weight"],
                    dense[f"{start}experts.{old}.{name}.weight"],
                )


def test_several_kinds_are_cut_at_once(make, tmp_path):
    model = make("MixtralForCausalLM", num_hidden_layers=4)
    kinds = {"width": 0.5, "heads": 0.5, "experts": 0.25, "depth": 0.25}
    product, out = cut(model, tmp_path / "out", cut=kinds, round_to=8)
    config = reopened(out).config
    assert (config.intermediate_size, config.num_key_value_heads) == (24, 1)
    assert (config.num_local_experts, config.num_hidden_layers) == (3, 3)
    assert {row["amount_asked"] for row in product.tables["layers"]} == {0.5, 0.25}


def test_a_stack_without_some_blocks_answers_as_if_they_passed_everything_on(make, tmp_path, tiny_data):
    model = make("LlamaForCausalLM", num_hidden_layers=4)
    product, out = cut(model, tmp_path / "out", cut={"depth": 0.5})
    dense, small = reopened(model), reopened(out)
    weights = [
        sum(
            float(part.weight.detach().double().square().sum())
            for part in layer.modules()
            if isinstance(part, torch.nn.Linear)
        )
        for layer in dense.model.layers
    ]
    kept = sorted(sorted(range(4), key=weights.__getitem__)[2:])
    dense.model.layers = torch.nn.ModuleList(dense.model.layers[index] for index in kept)
    for index, layer in enumerate(dense.model.layers):
        layer.self_attn.layer_idx = index
    dense.config.num_hidden_layers = 2
    torch.testing.assert_close(answers(small), answers(dense), atol=1e-5, rtol=0)
    (row,) = product.tables["layers"]
    assert (row["layer"], row["amount"]) == ("model.layers", 0.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_what_it_is(make, tmp_path, dtype):
    model = make("LlamaForCausalLM", dtype=dtype)
    _, out = cut(model, tmp_path / "out", cut={"width": 0.5, "heads": 0.5})
    assert {weight.dtype for weight in load_file(out / "model.safetensors").values()} == {dtype}


@pytest.mark.parametrize("share", [0, 1])
def test_nothing_is_cut_with_zero_and_one_unit_stays_with_one(make, tmp_path, share):
    product, out = cut(make("LlamaForCausalLM"), tmp_path / "out", cut={"heads": share, "depth": share})
    config = reopened(out).config
    assert (config.num_key_value_heads, config.num_hidden_layers) == ((2, 2) if share == 0 else (1, 1))
    kinds = [finding.kind for finding in product.findings]
    assert kinds.count("kept_least") == (2 if share else 0)


def test_a_share_too_small_for_a_single_unit_is_told(make, tmp_path):
    product, _ = cut(make("LlamaForCausalLM"), tmp_path / "out", cut={"width": 0.1}, round_to=16)
    assert "zero_effect" in {finding.kind for finding in product.findings}


@pytest.mark.parametrize("criterion", ["wanda", "taylor", "fisher", "variance", "random", "loss"])
def test_every_criterion_scores_units(tiny_model, tiny_data, tmp_path, criterion):
    model = tiny_model(tmp_path / "model", "LlamaForCausalLM", config={"num_key_value_heads": 2})
    data = Dataset(path=tiny_data(tmp_path / "data")["text"], kind="text", split="calibration", samples=4)
    product, out = cut(
        model, tmp_path / "out", data, criterion=criterion, cut={"width": 0.5, "heads": 0.5, "depth": 0.5}
    )
    assert reopened(out).config.intermediate_size == 16
    assert len(product.tables["layers"]) == 5


def test_the_criterion_loss_takes_out_what_the_loss_misses_least(tiny_model, tiny_data, tmp_path):
    model = tiny_model(tmp_path / "model", "LlamaForCausalLM", config={"num_hidden_layers": 3})
    data = Dataset(path=tiny_data(tmp_path / "data")["text"], kind="text", split="calibration", samples=4)
    _, out = cut(model, tmp_path / "out", data, criterion="loss", cut={"depth": 0.34})
    dense = load_file(model / "model.safetensors")
    left = load_file(out / "model.safetensors")
    name = "model.layers.{}.mlp.up_proj.weight"
    kept = [
        next(old for old in range(3) if torch.equal(dense[name.format(old)], left[name.format(new)]))
        for new in range(2)
    ]
    from tasks.amounts.promises import loss_over
    from tasks.examples.data import read
    from tasks.examples.fitting import fit
    from tasks.loading.models import load_afresh

    losses = []
    for gone in range(3):
        shorter = load_afresh(model)
        layers = shorter.module.model.layers
        shorter.module.model.layers = torch.nn.ModuleList(
            layers[index] for index in range(3) if index != gone
        )
        for index, layer in enumerate(shorter.module.model.layers):
            layer.self_attn.layer_idx = index
        shorter.module.config.num_hidden_layers = 2
        losses.append(loss_over(shorter, fit(read(data), shorter)))
    gone = losses.index(min(losses))
    assert kept == [index for index in range(3) if index != gone]


def test_a_criterion_that_changes_weights_is_refused(tiny_model, tmp_path):
    with pytest.raises(BadInput, match="sparsegpt scores weights while it changes them"):
        cut(tiny_model(tmp_path / "m"), tmp_path / "out", criterion="sparsegpt", cut={"width": 0.5})


def test_data_that_is_needed_and_not_there_is_asked_for(tiny_model, tmp_path):
    with pytest.raises(BadInput, match="needs calibration data"):
        cut(tiny_model(tmp_path / "m"), tmp_path / "out", criterion="wanda", cut={"width": 0.5})


def test_sizes_that_a_kernel_refuses_are_told_with_what_to_do(make, tmp_path):
    with pytest.raises(BadInput, match="round_to"):
        cut(
            make("Qwen2MoeForCausalLM", moe_intermediate_size=24),
            tmp_path / "out",
            cut={"width": 0.25},
        )


def test_shards_and_their_index_are_written_anew(make, tmp_path):
    model = make("LlamaForCausalLM")
    module = reopened(model)
    sharded = tmp_path / "sharded"
    module.save_pretrained(sharded, max_shard_size="20KB")
    _, out = cut(sharded, tmp_path / "out", cut={"depth": 0.5, "width": 0.25})
    index = json.loads((out / "model.safetensors.index.json").read_text())
    found = {name: file.name for file in sorted(out.glob("*.safetensors")) for name in load_file(file)}
    assert index["weight_map"] == found
    assert index["metadata"]["total_size"] == sum(
        weight.nbytes for file in out.glob("*.safetensors") for weight in load_file(file).values()
    )
    assert reopened(out).config.num_hidden_layers == 1


def test_tied_weights_stay_tied_and_are_stored_once(make, tmp_path):
    _, out = cut(make("LlamaForCausalLM", tie_word_embeddings=True), tmp_path / "out", cut={"width": 0.25})
    module = reopened(out)
    assert module.lm_head.weight is module.model.embed_tokens.weight
    assert "lm_head.weight" not in load_file(out / "model.safetensors")


def test_distillation_wins_back_some_of_what_a_cut_cost_and_sizes_stay(zoo, tmp_path):
    data = Dataset(path=zoo / "data" / "manual.jsonl", kind="text", split="calibration", samples=20)
    product, out = cut(
        next((zoo / "models" / "byte-llama-s").iterdir()),
        tmp_path / "out",
        data,
        criterion="wanda",
        cut={"width": 0.5},
        recover={"distill": {"steps": 20, "learning_rate": 1e-3, "temperature": 1.0}},
    )
    (row,) = product.tables["recoveries"]
    (artifact,) = product.tables["artifacts"]
    assert row["kept"]
    assert row["loss_after"] < row["loss_before"]
    assert artifact["parameters"] == sum(weight.numel() for weight in reopened(out).parameters())


def test_batch_norms_of_a_cut_network_are_estimated_again(tiny_model, tiny_data, tmp_path):
    model = tiny_model(tmp_path / "model", "ResNetForImageClassification")
    data = Dataset(
        path=tiny_data(tmp_path / "data")["arrays"], kind="arrays", split="calibration", shape=(1, 8, 8)
    )
    product, out = cut(model, tmp_path / "out", data, cut={"channels": 0.5}, recover={"batch_norm": True})
    (row,) = product.tables["recoveries"]
    assert row["step"] == "batch_norm"
    assert row["loss_after"] <= row["loss_before"]
    assert reopened(out).config.hidden_sizes == [4, 8]


def test_a_clean_process_finds_the_same_model(tiny_model, tmp_path):
    product, _ = cut(
        tiny_model(tmp_path / "model", "BertForSequenceClassification"),
        tmp_path / "out",
        cut={"width": 0.5, "depth": 0.5},
        verify="process",
    )
    assert product.has_artifact

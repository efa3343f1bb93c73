"""Effects. Masked language models against transformers' own, from the files as they are published to recovery."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from cases.model_files import edit_config, edit_weights, save_with_transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tasks import evaluation, pruning, sensitivity, structuring
from tasks.contract import BadInput, Dataset, Work
from tasks.examples.batches import batches
from tasks.examples.data import read
from tasks.examples.fitting import fit
from tasks.loading.models import load, outline, prunable_layers

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "dog",
    "ran",
    "in",
    "park",
    "we",
    "like",
    "to",
    "read",
    "books",
    "cook",
    "food",
    "every",
    "day",
]
TEXTS = [" ".join(WORDS[(start * 7 + step * 3) % 20] for step in range(4 + start)) for start in range(9)]
BERT = {
    "vocab_size": 25,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
}
MASK = 4


def write_tokenizer(path: Path, mask: str = "[MASK]") -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", mask]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(path / "tokenizer.json"))


@pytest.fixture
def data(tmp_path) -> Dataset:
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return Dataset(path=file, kind="text", split="all")


def save(path: Path, name: str = "BertForMaskedLM", model_type: str = "bert", **values):
    reference = save_with_transformers(path, name, model_type, **(values or BERT))
    write_tokenizer(path)
    return reference


def evaluated(model: Path, data: Dataset, dense: Path | None = None, **params):
    product = evaluation.run(Work(model=model, dense=dense, params=params, datasets={"evaluation": data}))
    return product.tables["outcomes"], product.findings


def test_the_loss_is_that_of_the_masked_tokens_alone(tmp_path, data):
    reference = save(tmp_path / "m")
    model = load(tmp_path / "m")
    assert model.family == "masked_lm"
    rows, findings = evaluated(tmp_path / "m", data)
    assert not findings
    for row, item in zip(rows, fit(read(data), model).items, strict=True):
        labels = torch.from_numpy(item.targets)[None]
        asked = int((labels != -100).sum())
        assert asked == max(1, round(0.15 * (len(item.content) - 2)))
        assert (item.content == MASK).sum() == asked
        with torch.no_grad():
            loss = reference(input_ids=torch.from_numpy(item.content)[None], labels=labels).loss
        assert row["tokens"] == asked
        assert row["loss"] == pytest.approx(float(loss) * asked, rel=1e-5)


def test_the_ends_of_a_text_are_never_asked_for_also_where_it_is_cut(tmp_path, data):
    save(tmp_path / "m")
    data.path.write_text(json.dumps({"text": " ".join(WORDS * 3)}))
    fitted = fit(read(data), load(tmp_path / "m"))
    (item,) = fitted.items
    assert item.content[[0, -1]].tolist() == [2, 3]
    assert len(item.content) == 24
    assert [finding.kind for finding in fitted.findings] == ["truncated_examples"]


def test_a_text_without_an_ordinary_token_is_left_out(tmp_path, data):
    save(tmp_path / "m")
    data.path.write_text('{"text": ""}\n{"text": "the cat"}\n')
    fitted = fit(read(data), load(tmp_path / "m"))
    assert [item.number for item in fitted.items] == [1]
    assert "1 of 2 texts have fewer than 1 tokens" in fitted.findings[0].message


def test_fidelity_is_that_of_the_masked_tokens(tmp_path, data):
    dense = save(tmp_path / "dense")
    edit_weights(
        save_copy(tmp_path / "dense", tmp_path / "other"),
        lambda tensors: [tensors[name].mul_(1.5) for name in tensors if "layer.1" in name],
    )
    other = transformers.BertForMaskedLM.from_pretrained(tmp_path / "other").eval()
    rows, _ = evaluated(tmp_path / "other", data, dense=tmp_path / "dense", fidelity=True)
    items = fit(read(data), load(tmp_path / "dense")).items
    for row, item in zip(rows, items, strict=True):
        ids, asked = torch.from_numpy(item.content)[None], item.targets != -100
        with torch.no_grad():
            before, after = (
                m(input_ids=ids).logits[0, asked].double().log_softmax(-1) for m in (dense, other)
            )
        expected = (before.exp() * (before - after)).sum(-1)
        assert row["kl"] == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-6)
        assert row["flips"] == int((before.argmax(-1) != after.argmax(-1)).sum())


def save_copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_neighbours_and_padding_change_nothing(tmp_path, data):
    save(tmp_path / "m")
    model = load(tmp_path / "m")
    fitted = fit(read(data), model)
    together = next(batches(fitted, model))
    assert len(together.positions) == len(TEXTS)
    found = evaluation.score(model, together)
    for batch in batches(fitted, model, 1):
        alone = evaluation.score(model, batch)
        at = together.positions.index(batch.positions[0])
        assert float(alone.losses[0]) == pytest.approx(float(found.losses[at]), rel=1e-5)
        assert alone.tokens[0] == found.tokens[at]


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt", "taylor", "fisher"])
def test_every_criterion_prunes_one_and_leaves_the_answering_embedding(tmp_path, data, criterion):
    save(tmp_path / "m")
    (tmp_path / "out").mkdir()
    params = {"criterion": criterion, "pattern": "unstructured", "scope": "row", "amount": 0.5}
    product = pruning.run(
        Work(model=tmp_path / "m", params=params, datasets={"calibration": data}, output=tmp_path / "out")
    )
    layers = {row["layer"] for row in product.tables["layers"]}
    assert "cls.predictions.transform.dense" in layers
    assert not any("decoder" in layer or "embeddings" in layer for layer in layers)
    pruned = transformers.BertForMaskedLM.from_pretrained(tmp_path / "out")
    for layer in layers:
        weight = pruned.get_submodule(layer).weight
        assert ((weight == 0).sum(1) == weight.shape[1] // 2).all()
    assert pruned.cls.predictions.decoder.weight is pruned.bert.embeddings.word_embeddings.weight


def test_sensitivity_width_and_distillation_work_for_one(tmp_path, data):
    save(tmp_path / "m")
    grid = {"criterion": "magnitude", "pattern": "unstructured", "scope": "tensor", "grid": [0.5], "skip": ()}
    measured = sensitivity.run(
        Work(model=tmp_path / "m", params=grid, datasets={"calibration": data})
    ).tables["sensitivity"]
    assert {row["layer"] for row in measured} == {
        layer.name for layer in prunable_layers(load(tmp_path / "m").module)
    }
    (tmp_path / "out").mkdir()
    params = {
        "cut": {"width": 0.5},
        "criterion": "wanda",
        "recover": {"distill": {"steps": 6, "learning_rate": 0.01, "temperature": 1.0}},
    }
    structuring.run_cut(
        Work(model=tmp_path / "m", params=params, datasets={"calibration": data}, output=tmp_path / "out")
    )
    small = transformers.BertForMaskedLM.from_pretrained(tmp_path / "out")
    assert small.config.intermediate_size == 12


# --- files as they are published


def publish_bert(path: Path) -> transformers.BertForPreTraining:
    """As bert-base-uncased is stored: old names, and the heads of both tasks that it was trained for."""
    reference = save(path, "BertForPreTraining")

    def age(tensors):
        for name in list(tensors):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
            tensors[old] = tensors.pop(name)

    edit_weights(path, age)
    edit_config(path, architectures=["BertForMaskedLM"])
    return reference


@pytest.mark.parametrize("architecture", ["BertForMaskedLM", "BertForPreTraining"])
def test_the_heads_of_other_tasks_are_copied_and_told(tmp_path, data, architecture):
    reference = publish_bert(tmp_path / "m")
    edit_config(tmp_path / "m", architectures=[architecture])
    model = load(tmp_path / "m")
    assert model.family == "masked_lm"
    unused = {finding.subject for finding in model.findings if finding.kind == "unused_tensor"}
    assert unused == {
        *("bert.pooler.dense.weight", "bert.pooler.dense.bias"),
        *("cls.seq_relationship.weight", "cls.seq_relationship.bias"),
    }
    ids = torch.tensor([[2, 7, 4, 9, 3]])
    with torch.no_grad():
        expected = reference(input_ids=ids).prediction_logits
        torch.testing.assert_close(model.module(input_ids=ids).logits, expected)
    (tmp_path / "out").mkdir()
    params = {"criterion": "magnitude", "pattern": "2:4"}
    pruning.run(Work(model=tmp_path / "m", params=params, output=tmp_path / "out"))
    assert outline(tmp_path / "out").checkpoint.names == model.checkpoint.names
    pruned = transformers.BertForPreTraining.from_pretrained(tmp_path / "out")
    assert torch.equal(pruned.bert.pooler.dense.weight, reference.bert.pooler.dense.weight)
    assert torch.equal(pruned.cls.seq_relationship.weight, reference.cls.seq_relationship.weight)


def test_what_is_too_much_inside_the_body_is_refused_all_the_same(tmp_path):
    save(tmp_path / "m")
    edit_weights(tmp_path / "m", lambda tensors: tensors.update({"bert.encoder.layer.2.x": torch.ones(2)}))
    with pytest.raises(BadInput, match="no weights of the model") as caught:
        outline(tmp_path / "m")
    assert caught.value.tensor == "bert.encoder.layer.2.x"


@pytest.mark.parametrize(
    ("architecture", "body", "model_type"),
    [
        ("MPNetForMaskedLM", "MPNetModel", "mpnet"),
        ("ElectraForPreTraining", "ElectraForPreTraining", "electra"),
    ],
)
def test_without_the_head_of_its_name_a_model_is_the_encoder_that_is_stored(
    tmp_path, data, architecture, body, model_type
):
    reference = save(tmp_path / "m", body, model_type, **BERT, pad_token_id=0)
    edit_config(tmp_path / "m", architectures=[architecture])
    model = load(tmp_path / "m")
    assert model.family == "text_encoder"
    assert "no_head" in {finding.kind for finding in model.findings}
    rows, _ = evaluated(tmp_path / "m", data, dense=tmp_path / "m", fidelity=True)
    assert max(row["distance"] for row in rows) < 1e-6
    (tmp_path / "out").mkdir()
    params = {"cut": {"width": 0.5}, "criterion": "magnitude"}
    structuring.run_cut(Work(model=tmp_path / "m", params=params, output=tmp_path / "out"))
    small = type(reference).from_pretrained(tmp_path / "out")
    assert small.config.intermediate_size == 12
    assert {**json.loads((tmp_path / "out" / "config.json").read_text())}["architectures"] == [architecture]


def test_a_tokenizer_without_a_mask_is_refused(tmp_path, data):
    save(tmp_path / "m")
    write_tokenizer(tmp_path / "m", mask="[OTHER]")
    with pytest.raises(BadInput, match=r"has no mask token \(\[MASK\] or <mask>\)"):
        evaluated(tmp_path / "m", data)


def test_a_mask_beyond_the_vocabulary_is_refused(tmp_path, data):
    save(tmp_path / "m", **{**BERT, "vocab_size": 4})
    data.path.write_text('{"text": ""}')
    with pytest.raises(BadInput, match="gives its mask token the number 4"):
        evaluated(tmp_path / "m", data)

"""Effects. How examples are fitted to a model or refused, and how they are put side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tasks.contract import BadInput, Dataset
from tasks.examples import batches as batching
from tasks.examples import tokenizing
from tasks.examples.batches import batch_tokens_for, batches
from tasks.examples.data import read
from tasks.examples.fitting import Fitted, Item, fit
from tasks.loading.models import Model, load


@pytest.fixture
def model_of(tmp_path, tiny_model):
    """Architecture and config overrides -> the loaded tiny model."""

    def make(architecture: str, **config: Any) -> Model:
        return load(tiny_model(tmp_path / architecture, architecture, config=config))

    return make


def texts(path: Path, *rows: dict[str, Any], samples: int | None = None) -> Dataset:
    path.mkdir(exist_ok=True)
    file = path / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Dataset(path=file, kind="text", split="all", samples=samples)


def arrays(path: Path, inputs: Sequence[Sequence[float]], labels: Any, shape: Sequence[int] = ()) -> Dataset:
    file = path / "arrays.parquet"
    column = pa.array(list(inputs), pa.list_(pa.float32()))
    pq.write_table(pa.table({"inputs": column, "label": labels}), file)
    return Dataset(path=file, kind="arrays", split="all", shape=shape)


def break_tokenizer(model: Model, change: Any) -> None:
    file = model.path / "tokenizer.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


# --- text


def test_a_text_becomes_the_tokens_of_its_bytes_behind_the_start_token(tmp_path, model_of):
    fitted = fit(read(texts(tmp_path, {"text": "ab"})), model_of("LlamaForCausalLM"))
    assert [item.content.tolist() for item in fitted.items] == [[257, 97, 98]]
    assert fitted.items[0].content.dtype == np.int64
    assert fitted.findings == ()


def test_a_text_of_a_language_model_asks_for_each_token_behind_the_first(tmp_path, model_of):
    model = model_of("LlamaForCausalLM")
    (batch,) = batches(fit(read(texts(tmp_path, {"text": "ab"}, {"text": "c"})), model), model)
    assert batch.inputs["input_ids"].tolist() == [[257, 97, 98], [257, 99, 256]]
    assert batch.targets is not None
    assert batch.targets.tolist() == [[97, 98, -100], [99, -100, -100]]


def test_a_language_model_needs_no_label_and_ignores_one(tmp_path, model_of):
    fitted = fit(read(texts(tmp_path, {"text": "ab", "label": "x"})), model_of("LlamaForCausalLM"))
    assert fitted.items[0].label is None


def test_texts_longer_than_the_positions_are_cut_and_counted(tmp_path, model_of):
    rows = [{"text": "x" * 200}, {"text": "y" * 10}, {"text": "z" * 127}, {"text": "z" * 128}]
    fitted = fit(read(texts(tmp_path, *rows)), model_of("LlamaForCausalLM"))
    assert [len(item.content) for item in fitted.items] == [128, 11, 128, 128]
    (finding,) = fitted.findings
    assert finding.kind == "truncated_examples"
    assert finding.subject == "texts.jsonl"
    assert "2 of 4 texts are longer than 128 tokens" in finding.message


def test_no_text_is_longer_than_the_cap_whatever_the_model_allows(tmp_path, model_of, monkeypatch):
    monkeypatch.setattr(tokenizing, "MAX_TOKENS", 5)
    fitted = fit(read(texts(tmp_path, {"text": "abcdefgh"})), model_of("GPT2LMHeadModel"))
    assert len(fitted.items[0].content) == 5


def test_cutting_a_text_to_classify_keeps_the_tokens_that_end_it(tmp_path, model_of):
    model = model_of("BertForSequenceClassification")

    def end_with_a_token(content: Any) -> None:
        content["post_processor"]["single"].append({"SpecialToken": {"id": "<s>", "type_id": 0}})

    break_tokenizer(model, end_with_a_token)
    fitted = fit(read(texts(tmp_path, {"text": "x" * 500, "label": 0})), model)
    ids = fitted.items[0].content.tolist()
    assert len(ids) == 128
    assert (ids[0], ids[-1]) == (257, 257)
    assert fitted.findings[0].kind == "truncated_examples"


def test_padding_and_truncation_of_the_tokenizer_itself_are_not_applied(tmp_path, model_of):
    model = model_of("LlamaForCausalLM")

    def pad_and_cut(content: Any) -> None:
        content["truncation"] = {
            "max_length": 3,
            "strategy": "LongestFirst",
            "stride": 0,
            "direction": "Right",
        }
        content["padding"] = {
            "strategy": {"Fixed": 50},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 256,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        }

    break_tokenizer(model, pad_and_cut)
    fitted = fit(read(texts(tmp_path, {"text": "abcdef"})), model)
    assert fitted.items[0].content.tolist() == [257, *b"abcdef"]


def test_texts_too_short_to_predict_anything_are_left_out_with_their_lines(tmp_path, model_of):
    fitted = fit(
        read(texts(tmp_path, {"text": "a"}, {"text": ""}, {"text": "b"})), model_of("LlamaForCausalLM")
    )
    assert [item.number for item in fitted.items] == [0, 2]
    (finding,) = fitted.findings
    assert finding.kind == "skipped_examples"
    assert "1 of 3 texts" in finding.message
    assert "line 2" in finding.message


def test_many_short_texts_are_counted_and_not_all_listed(tmp_path, model_of):
    rows = [{"text": "a"}, *({"text": ""} for _ in range(30))]
    (finding,) = fit(read(texts(tmp_path, *rows)), model_of("LlamaForCausalLM")).findings
    assert "30 of 31" in finding.message
    assert finding.message.endswith(", …")


def test_nothing_but_short_texts_is_refused(tmp_path, model_of):
    with pytest.raises(BadInput, match="no text can be used") as caught:
        fit(read(texts(tmp_path, {"text": ""})), model_of("LlamaForCausalLM"))
    assert caught.value.file.endswith("texts.jsonl")


def test_a_missing_tokenizer_is_refused_by_name(tmp_path, model_of):
    model = model_of("LlamaForCausalLM")
    (model.path / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match="has no tokenizer") as caught:
        fit(read(texts(tmp_path, {"text": "ab"})), model)
    assert caught.value.file == "tokenizer.json"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"version": "9"}', b"null"])
def test_a_tokenizer_that_is_none_is_refused(tmp_path, model_of, content):
    model = model_of("LlamaForCausalLM")
    (model.path / "tokenizer.json").write_bytes(content)
    with pytest.raises(BadInput, match="tokenizer cannot be used") as caught:
        fit(read(texts(tmp_path, {"text": "ab"})), model)
    assert caught.value.file == "tokenizer.json"


def test_a_tokenizer_that_makes_its_library_panic_is_refused(tmp_path, model_of):
    model = model_of("LlamaForCausalLM")
    break_tokenizer(model, lambda content: content["post_processor"].update(special_tokens={}))
    with pytest.raises(BadInput, match="tokenizer cannot be used"):
        fit(read(texts(tmp_path, {"text": "ab"})), model)


def test_a_tokenizer_that_fails_on_a_text_names_the_line(tmp_path, model_of):
    model = model_of("LlamaForCausalLM")

    def know_only_a(content: Any) -> None:
        content["model"] = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "?"}
        content["pre_tokenizer"] = content["post_processor"] = None

    break_tokenizer(model, know_only_a)
    with pytest.raises(BadInput, match="line 1 of the data set"):
        fit(read(texts(tmp_path, {"text": "zz"})), model)


def test_an_overlong_tokenizer_is_refused_unread(tmp_path, model_of, monkeypatch):
    monkeypatch.setattr(tokenizing, "MAX_TOKENIZER_BYTES", 100)
    with pytest.raises(BadInput, match="longer than 100 bytes"):
        fit(read(texts(tmp_path, {"text": "ab"})), model_of("LlamaForCausalLM"))


def test_a_tokenizer_that_is_a_link_is_not_followed(tmp_path, model_of):
    model = model_of("LlamaForCausalLM")
    (model.path / "tokenizer.json").rename(tmp_path / "elsewhere.json")
    (model.path / "tokenizer.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BadInput, match="link"):
        fit(read(texts(tmp_path, {"text": "ab"})), model)


def test_a_token_that_the_model_does_not_have_is_refused_with_its_line(tmp_path, model_of):
    model = model_of("LlamaForCausalLM", vocab_size=100, pad_token_id=None, bos_token_id=None)
    with pytest.raises(BadInput, match="token 257, and the model's vocab_size is 100") as caught:
        fit(read(texts(tmp_path, {"text": "ab"})), model)
    assert caught.value.line == 1


def test_positions_that_start_behind_the_padding_shorten_the_texts(model_of):
    positions = torch.nn.Embedding(50, 4, padding_idx=1)
    module = torch.nn.ModuleDict({"position_embeddings": positions})
    config = SimpleNamespace(max_position_embeddings=50)
    model: Any = SimpleNamespace(module=module, config=config)
    assert tokenizing.longest_text(model) == 48


def a_model_of_positions(positions) -> Any:
    return SimpleNamespace(
        module=torch.nn.Linear(1, 1), config=SimpleNamespace(max_position_embeddings=positions)
    )


@pytest.mark.parametrize(
    ("positions", "longest"), [(None, 2048), (-1, 2048), (1, 1), (512, 512), (10**6, 2048)]
)
def test_a_model_without_a_limit_of_positions_reads_texts_as_long_as_any(positions, longest):
    assert tokenizing.longest_text(a_model_of_positions(positions)) == longest


@pytest.mark.parametrize("positions", [0, -2, "512", 512.0, True, [512]])
def test_positions_that_are_no_count_are_refused_with_the_file(positions):
    with pytest.raises(BadInput, match="max_position_embeddings") as caught:
        tokenizing.longest_text(a_model_of_positions(positions))
    assert caught.value.file == "config.json"


# --- labels


def test_labels_are_numbers_or_the_model_s_names_for_them(tmp_path, model_of):
    rows = [{"text": "a", "label": "gamma"}, {"text": "b", "label": 1}]
    fitted = fit(read(texts(tmp_path, *rows)), model_of("BertForSequenceClassification"))
    assert [item.label for item in fitted.items] == [2, 1]


@pytest.mark.parametrize(
    ("label", "why"),
    [
        ("delta", "'delta' is not in the model's label2id"),
        (3, "label is 3, and the model has 3 classes"),
        (-1, "label is -1"),
        (10**30, "label is 1000"),
        (None, "label is missing"),
    ],
)
def test_a_label_that_the_model_does_not_know_is_refused_with_its_line(tmp_path, model_of, label, why):
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": label}]
    with pytest.raises(BadInput) as caught:
        fit(read(texts(tmp_path, *rows)), model_of("BertForSequenceClassification"))
    assert why in str(caught.value)
    assert caught.value.line == 2


def test_a_label_in_parquet_is_refused_with_its_row(tmp_path, model_of):
    dataset = arrays(tmp_path, [[0.0] * 64] * 3, [0, 9, 10])
    with pytest.raises(BadInput, match="has 10 classes in row 3"):
        fit(read(dataset), model_of("MLPForClassification"))


def test_an_architecture_without_label_names_takes_numbers_only(tmp_path, model_of):
    dataset = arrays(tmp_path, [[0.0] * 64], ["one"])
    with pytest.raises(BadInput, match="'one' is not in the model's label2id.*a whole number below 10"):
        fit(read(dataset), model_of("MLPForClassification"))


@pytest.mark.parametrize("config", [{"problem_type": "multi_label_classification"}])
def test_models_that_choose_no_class_are_refused(tmp_path, model_of, config):
    with pytest.raises(BadInput, match="does not choose one of several classes"):
        fit(
            read(texts(tmp_path, {"text": "a", "label": 0})),
            model_of("BertForSequenceClassification", **config),
        )


# --- kind and shape


def test_text_for_an_image_model_is_refused_and_the_reverse(tmp_path, model_of):
    with pytest.raises(
        BadInput, match="family image_classifier reads arrays, and the data set's kind is text"
    ):
        fit(read(texts(tmp_path, {"text": "a", "label": 0})), model_of("ViTForImageClassification"))
    with pytest.raises(BadInput, match="family causal_lm reads text, and the data set's kind is arrays"):
        fit(read(arrays(tmp_path, [[0.0]], [0])), model_of("LlamaForCausalLM"))


@pytest.mark.parametrize(
    ("architecture", "shape", "reads"),
    [
        ("ViTForImageClassification", (1, 4, 16), r"\[1, 8, 8\]"),
        ("ViTForImageClassification", (4, 4, 4), r"\[1, 8, 8\]"),
        ("ViTForImageClassification", (8, 8), r"\[1, 8, 8\]"),
        ("ViTForImageClassification", (), r"\[1, 8, 8\]"),
        ("ResNetForImageClassification", (4, 4, 4), r"\[1, any, any\]"),
        ("ResNetForImageClassification", (), r"\[1, any, any\]"),
        ("MLPForClassification", (8, 8), r"\[64\]"),
    ],
)
def test_an_example_of_another_shape_is_refused_with_what_the_model_reads(
    tmp_path, model_of, architecture, shape, reads
):
    dataset = arrays(tmp_path, [[0.0] * 64], [0], shape)
    with pytest.raises(BadInput, match=f"the model reads {reads} in row 1"):
        fit(read(dataset), model_of(architecture))


def test_a_convolutional_model_takes_images_of_any_size(tmp_path, model_of):
    dataset = arrays(tmp_path, [[0.0] * 64], [0], (1, 4, 16))
    assert len(fit(read(dataset), model_of("ResNetForImageClassification")).items) == 1


def test_a_vector_of_another_length_is_refused(tmp_path, model_of):
    with pytest.raises(BadInput, match=r"shape \[63\], and the model reads \[64\]"):
        fit(read(arrays(tmp_path, [[0.0] * 63], [0])), model_of("MLPForClassification"))


# --- batches


def sentences(*lengths: int) -> Fitted:
    return Fitted(
        items=tuple(
            Item(number=n, slices={}, content=np.full(length, n + 1, np.int64))
            for n, length in enumerate(lengths)
        )
    )


def test_every_item_is_in_exactly_one_batch_and_the_longest_come_first(model_of):
    model = model_of("LlamaForCausalLM")
    found = list(batches(sentences(3, 9, 5, 2, 9), model, 20))
    assert [batch.positions for batch in found] == [(1, 4), (2, 0, 3)]
    assert [batch.lengths for batch in found] == [(9, 9), (5, 3, 2)]


def test_padding_stands_on_the_right_and_is_masked(model_of):
    (batch,) = batches(sentences(2, 4), model_of("LlamaForCausalLM"))
    assert batch.inputs["input_ids"].tolist() == [[2, 2, 2, 2], [1, 1, 256, 256]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.labels is None


def test_no_batch_has_more_tokens_than_asked_for_unless_it_is_one_item(model_of):
    draw = np.random.default_rng(0)
    lengths = draw.integers(2, 40, size=60).tolist()
    for limit in (1, 10, 39, 64, 1000):
        found = list(batches(sentences(*lengths), model_of("LlamaForCausalLM"), limit))
        assert sorted(position for batch in found for position in batch.positions) == list(range(60))
        assert all(batch.inputs["input_ids"].numel() <= limit or len(batch.positions) == 1 for batch in found)


def test_unpadded_batches_hold_one_length_each(model_of):
    found = list(batches(sentences(3, 2, 3, 2, 3), model_of("LlamaForCausalLM"), padded=False))
    assert [batch.positions for batch in found] == [(0, 2, 4), (1, 3)]
    assert all(bool((batch.inputs["attention_mask"] == 1).all()) for batch in found)


def test_without_a_padding_token_a_text_classifier_gets_one_text_at_a_time(model_of):
    bert = model_of("BertForSequenceClassification", pad_token_id=None)
    assert [batch.positions for batch in batches(sentences(2, 4, 4), bert)] == [(1,), (2,), (0,)]
    llama = model_of("LlamaForCausalLM", pad_token_id=None)
    (batch,) = batches(sentences(2, 4), llama)
    assert batch.inputs["input_ids"][1].tolist() == [1, 1, 0, 0]


def test_a_large_vocabulary_makes_smaller_batches(model_of, monkeypatch):
    model = model_of("LlamaForCausalLM")
    assert batch_tokens_for(model) == batching.BATCH_TOKENS
    monkeypatch.setattr(batching, "LOGIT_BYTES", 4 * 258 * 7)
    assert batch_tokens_for(model) == 7


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_arrays_come_in_the_model_s_dtype_with_their_labels(tmp_path, tiny_model, tiny_data, dtype):
    model = load(tiny_model(tmp_path / "m", "ViTForImageClassification", dtype=dtype))
    file = tiny_data(tmp_path / "d")["arrays"]
    dataset = Dataset(path=file, kind="arrays", split="test", shape=(1, 8, 8))
    fitted = fit(read(dataset), model)
    (batch,) = batches(fitted, model)
    assert batch.inputs["pixel_values"].shape == (12, 1, 8, 8)
    assert batch.inputs["pixel_values"].dtype == getattr(torch, dtype)
    assert batch.labels is not None
    assert batch.labels.tolist() == [item.label for item in fitted.items]
    assert batch.lengths == (1,) * 12


def test_arrays_are_batched_by_how_many_numbers_they_hold(model_of):
    items = tuple(
        Item(number=n, slices={}, content=np.zeros((2, 256), np.float32), label=0) for n in range(5)
    )
    found = list(batches(Fitted(items=items), model_of("MLPForClassification"), 4))
    assert [batch.positions for batch in found] == [(0, 1), (2, 3), (4,)]

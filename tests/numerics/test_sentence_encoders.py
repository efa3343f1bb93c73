"""Effects. Sentence encoders as sentence-transformers saves them: how tokens become one vector, and what is copied."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cases.model_files import save_with_transformers
from hypothesis import given
from hypothesis import strategies as st

from tasks import pruning, structuring
from tasks.contract import BadInput, Work
from tasks.examples.batches import Batch, logits_of
from tasks.examples.embeddings import pooled
from tasks.files.modules import MEAN, POOLINGS, pooling_of
from tasks.loading.models import load

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": False}


def by_hand(states: torch.Tensor, length: int, mode: str) -> torch.Tensor:
    """One text's vector, token by token."""
    tokens = [state.double() for state in states[:length]]
    match mode:
        case "cls":
            return tokens[0]
        case "lasttoken":
            return tokens[-1]
        case "max":
            return torch.stack([max(column) for column in zip(*tokens, strict=True)])
        case "mean_sqrt_len_tokens":
            return sum(tokens) / length**0.5
        case "weightedmean":
            return sum((at + 1) * token for at, token in enumerate(tokens)) / sum(range(1, length + 1))
    return sum(tokens) / length


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(0, 100), st.sampled_from(list(POOLINGS))
)
def test_each_way_to_one_vector_looks_at_the_texts_own_tokens(lengths, seed, mode):
    states = torch.randn(len(lengths), max(lengths), 3, generator=torch.Generator().manual_seed(seed))
    mask = torch.tensor([[int(at < length) for at in range(max(lengths))] for length in lengths])
    expected = torch.stack([by_hand(*pair, mode) for pair in zip(states, lengths, strict=True)])
    answer = type("Answer", (), {"last_hidden_state": states})()
    torch.testing.assert_close(pooled(answer, mask, (mode,)).double(), expected, rtol=1e-5, atol=1e-6)


def test_several_ways_stand_side_by_side():
    answer = type("Answer", (), {"last_hidden_state": torch.tensor([[[1.0], [4.0], [9.0]]])})()
    assert pooled(answer, torch.tensor([[1, 1, 0]]), ("cls", "max", "mean")).tolist() == [[1.0, 4.0, 2.5]]


def save(path: Path, pooling: object, *more: tuple[str, str]):
    """As the library saves one; `more` are further modules, (folder, class)."""
    reference = save_with_transformers(path, "BertModel", "bert", **SMALL)
    listed = [("", "models.Transformer"), ("1_Pooling", "models.Pooling"), *more]
    modules = [
        {"idx": at, "name": str(at), "path": folder, "type": f"sentence_transformers.{kind}"}
        for at, (folder, kind) in enumerate(listed)
    ]
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "sentence_bert_config.json").write_text('{"max_seq_length": 128}')
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return reference


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        ({"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}, ("mean",)),
        ({"word_embedding_dimension": 16, **CLS}, ("cls",)),
        ({"embedding_dimension": 16, "pooling_mode": "lasttoken", "include_prompt": True}, ("lasttoken",)),
        ({"pooling_mode_max_tokens": True, "pooling_mode_cls_token": True}, ("cls", "max")),
        ({"pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
        ({"pooling_mode": "cls", "pooling_mode_mean_tokens": True}, ("cls",)),
        ({}, ("mean",)),
    ],
)
def test_an_encoder_answers_as_its_pooling_says(tmp_path, pooling, modes):
    reference = save(tmp_path, pooling, ("2_Normalize", "models.Normalize"))
    model = load(tmp_path)
    assert (model.pooling, model.findings) == (modes, ())
    ids, mask = torch.tensor([[3, 4, 5], [7, 8, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    batch = Batch(positions=(0, 1), inputs={"input_ids": ids, "attention_mask": mask}, lengths=(3, 2))
    with torch.no_grad():
        states = reference(input_ids=ids, attention_mask=mask).last_hidden_state
        expected = [torch.cat([by_hand(states[at], 3 - at, mode) for mode in modes]) for at in (0, 1)]
        torch.testing.assert_close(
            logits_of(model, batch).double(), torch.stack(expected), rtol=1e-4, atol=1e-5
        )


def test_without_a_list_of_modules_it_is_the_mean(tmp_path):
    assert pooling_of(tmp_path) == (MEAN, ())


@pytest.mark.parametrize("cut", [False, True])
def test_what_belongs_to_the_encoder_goes_with_the_artifact(tmp_path, cut):
    source, output = tmp_path / "m", tmp_path / "out"
    save(source, CLS, ("2_Dense", "models.Dense"))
    output.mkdir()
    (source / "2_Dense").mkdir()
    (source / "2_Dense" / "config.json").write_text("{}")
    (source / "2_Dense" / "model.safetensors").write_bytes(b"weights")
    (source / "2_Dense" / "code.py").write_text("raise SystemExit")
    params = {"cut": {"width": 0.5}} if cut else {"pattern": "2:4"}
    run = structuring.run_cut if cut else pruning.run
    product = run(Work(model=source, params={"criterion": "magnitude", **params}, output=output))
    told = [(one.subject, one.message) for one in product.findings if one.kind == "unused_module"]
    assert told == [
        ("2_Dense", "the module Dense is not run: what counts is the embedding before it; it is copied")
    ]
    for name in (
        "modules.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
    ):
        assert (output / name).read_bytes() == (source / name).read_bytes()
    assert not (output / "2_Dense" / "code.py").exists()
    assert load(output).pooling == ("cls",)


@pytest.mark.parametrize("folder", ["2_Dense", "../2_Dense", "/etc", "2_Dense/../../x"])
def test_weights_of_a_module_that_are_pickled_or_elsewhere_are_missed_aloud(tmp_path, folder):
    save(tmp_path, CLS, (folder, "models.Dense"))
    (finding,) = pooling_of(tmp_path)[1]
    assert finding.message.endswith("its weights are not there as safetensors")


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("modules.json", "{", "not JSON"),
        ("modules.json", "{}", "no list of modules"),
        ("modules.json", "[1]", "no list of modules"),
        ("modules.json", '[{"path": 1, "type": "x"}]', "no list of modules"),
        ("modules.json", '[{"path": "../1_Pooling", "type": "x.Pooling"}]', "is not there"),
        ("modules.json", '[{"path": "3_Pooling", "type": "x.Pooling"}]', "is not there"),
        ("1_Pooling/config.json", "[]", "not an object"),
        ("1_Pooling/config.json", '{"pooling_mode": "best"}', "known are cls, max, mean"),
        ("1_Pooling/config.json", '{"pooling_mode": []}', "known are cls, max, mean"),
        ("1_Pooling/config.json", '{"pooling_mode": [1]}', "known are cls, max, mean"),
        ("1_Pooling/config.json", '{"pooling_mode": [[1]]}', "known are cls, max, mean"),
        ("1_Pooling/config.json", '{"pooling_mode": {"cls": 1}}', "known are cls, max, mean"),
    ],
)
def test_modules_that_make_no_sense_are_refused_by_name(tmp_path, file, text, why):
    save(tmp_path, CLS)
    (tmp_path / file).write_text(text)
    with pytest.raises(BadInput, match=why) as caught:
        load(tmp_path)
    assert caught.value.file == file or "is not there" in why

"""Questions with several answers: every score against the sum of log-probabilities, token by token, by transformers itself."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
import transformers
from tokenizers import Tokenizer

from tasks import evaluation, latency
from tasks.contract import BadInput, Dataset, Work

QUESTIONS = [
    {
        "text": "The capital of France is",
        "choices": [" Paris", " Rome", " a town called Lyon"],
        "label": 0,
        "topic": "a",
    },
    {"text": "Two and two is ", "choices": ["4", "5"], "label": "4", "topic": "b"},
    {"text": "A", "choices": [" b", "\nc"], "label": 1, "topic": "a"},
]


@pytest.fixture
def asked(tmp_path, tiny_model):
    """Questions, architecture -> the work of evaluating a tiny model on them."""

    def asked(questions=QUESTIONS, architecture="LlamaForCausalLM", config=None, **params):
        file = tmp_path / "quiz.jsonl"
        file.write_text("".join(json.dumps(question) + "\n" for question in questions))
        model = tiny_model(tmp_path / "model", architecture, config=config)
        data = Dataset(path=file, kind="choices", split="all", slices=("topic",))
        return Work(model=model, params=params, datasets={"evaluation": data})

    return asked


def scores_by_hand(path, question):
    """The log-probability of each choice, one token after the other."""
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    model = transformers.LlamaForCausalLM.from_pretrained(path).eval()
    text, scores = question["text"].rstrip(), []
    for choice in question["choices"]:
        ids = tokenizer.encode(question["text"] + choice).ids
        start, total = len(tokenizer.encode(text).ids), 0.0
        for place in range(start, len(ids)):
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([ids[:place]])).logits[0, -1]
            total += float(logits.double().log_softmax(0)[ids[place]])
        scores.append(total)
    return scores


def rows_of(work):
    return evaluation.run(work).tables["outcomes"]


def test_the_answer_of_greatest_log_probability_is_chosen(asked):
    work = asked()
    for row, question in zip(rows_of(work), QUESTIONS, strict=True):
        scores = scores_by_hand(work.model, question)
        right = (
            question["label"]
            if isinstance(question["label"], int)
            else question["choices"].index(question["label"])
        )
        total = math.log(math.fsum(math.exp(score) for score in scores))
        assert row["probabilities"] == pytest.approx([math.exp(score - total) for score in scores], rel=1e-4)
        assert row["prediction"] == scores.index(max(scores))
        assert row["label"] == right
        assert row["correct"] == (row["prediction"] == right)
        assert row["loss"] == pytest.approx(total - scores[right], rel=1e-4)
        assert row["slices"] == {"topic": question["topic"]}


@pytest.mark.parametrize("batch_tokens", [1, 40])
def test_how_answers_are_batched_does_not_matter(asked, monkeypatch, batch_tokens):
    work = asked()
    expected = rows_of(work)
    monkeypatch.setattr("tasks.examples.batches.BATCH_TOKENS", batch_tokens)
    for row, other in zip(expected, rows_of(work), strict=True):
        assert row["probabilities"] == pytest.approx(other["probabilities"], rel=1e-5)
        assert row["prediction"] == other["prediction"]


def test_of_a_long_question_the_end_is_read_and_that_is_said(asked):
    end = {"text": "the end of it is", "choices": [" near", " far away"], "label": 0, "topic": "a"}
    config = {"max_position_embeddings": 26}
    product = evaluation.run(asked([{**end, "text": 30 * "long " + end["text"]}], config=config))
    (finding,) = product.findings
    assert (finding.kind, finding.subject) == ("truncated_examples", "quiz.jsonl")
    assert "1 of 1 questions" in finding.message
    assert product.tables["outcomes"][0]["probabilities"] is not None


def test_scores_that_are_not_numbers_choose_nothing(asked, monkeypatch):
    def broken(logits, targets):
        return torch.full((len(targets),), math.nan, dtype=torch.float64)

    monkeypatch.setattr("tasks.measuring.choices.summed_losses", broken)
    product = evaluation.run(asked())
    assert all(row["loss"] is None and "prediction" not in row for row in product.tables["outcomes"])
    assert {finding.kind for finding in product.findings} == {"non_finite_loss"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"choices": ["one"]}, "2 to 64 different texts"),
        ({"choices": ["a", "a"]}, "2 to 64 different texts"),
        ({"choices": "ab"}, "2 to 64 different texts"),
        ({"choices": ["a", ""]}, "2 to 64 different texts"),
        ({"choices": ["a", 7]}, "2 to 64 different texts"),
        ({"choices": ["a", "\ud800"]}, "surrogate"),
        ({"label": 3}, "a number below 3"),
        ({"label": -1}, "a number below 3"),
        ({"label": "Berlin"}, "neither one of its choices"),
        ({"label": None}, "neither one of its choices"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_with_its_line(asked, change, why):
    with pytest.raises(BadInput, match=why) as refused:
        evaluation.run(asked([QUESTIONS[1], {**QUESTIONS[0], **change}]))
    assert refused.value.line == 2


def test_an_answer_that_does_not_fit_the_model_is_refused(asked):
    question = {**QUESTIONS[0], "choices": [" yes", " " + "no" * 100]}
    with pytest.raises(BadInput, match="the model takes 64"):
        evaluation.run(asked([question], config={"max_position_embeddings": 64}))


def test_only_language_models_are_asked_and_not_for_fidelity(asked):
    with pytest.raises(BadInput, match="not for a model of the family text_classifier"):
        evaluation.run(asked(architecture="BertForSequenceClassification"))
    with pytest.raises(BadInput, match="not for the metric fidelity"):
        evaluation.run(asked(fidelity=True))


def test_latency_is_timed_on_the_questions_texts(asked):
    work = asked()
    timing = {"batch": 1, "sequence": 8, "repetitions": 6}
    (row,) = latency.run(replace(work, params=timing, dense=work.model)).tables["latencies"]
    assert (row["batch"], row["sequence"]) == (1, 8)

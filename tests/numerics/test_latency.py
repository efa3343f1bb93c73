"""Effects. Latency: the arithmetic against scipy and by hand, the turns, the batch that is timed, and what is said of it."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace

import pytest
import torch
from scipy.stats import binom

from tasks import latency, pruning
from tasks.contract import Dataset, Work
from tasks.measuring.timing import LEAST_BLOCKS, Block, lowest_rank, speed_of

ASKED = {"batch": 2, "sequence": 8, "repetitions": 6}


@pytest.fixture
def timed(tmp_path, tiny_model, tiny_data):
    """Architecture -> the work of timing its pruned model against the dense one."""

    def make(architecture="LlamaForCausalLM", amount=0.5, config=None, **asked):
        files = tiny_data(tmp_path / "data")
        kinds = {
            "Llama": ("text", ()),
            "Bert": ("sections", ()),
            "MLP": ("arrays", ()),
            "ViT": ("arrays", (1, 8, 8)),
        }
        name, shape = next(found for prefix, found in kinds.items() if architecture.startswith(prefix))
        dense = tiny_model(tmp_path / "dense", architecture, config=config)
        pruned = tmp_path / "pruned"
        pruned.mkdir()
        params = {
            "criterion": "magnitude",
            "pattern": "unstructured",
            "scope": "tensor",
            "skip": [],
            "amount": amount,
        }
        pruning.run(Work(model=dense, params=params, output=pruned))
        kind = "arrays" if name == "arrays" else "text"
        data = Dataset(path=files[name], kind=kind, split="test", shape=shape)
        return Work(model=pruned, dense=dense, params={**ASKED, **asked}, datasets={"evaluation": data})

    return make


@pytest.fixture
def clock(monkeypatch):
    """Replaces the stopwatch by one that takes `seconds(model's directory name, number of the pass)`; the passes it saw."""

    def make(seconds):
        seen = []

        def seconds_of(model, batch, passes):
            seen.append(model.path.name)
            return seconds(model.path.name, len(seen))

        monkeypatch.setattr(latency, "seconds_of", seconds_of)
        return seen

    return make


def row_of(work):
    (row,) = latency.run(work).tables["latencies"]
    return row


# --- arithmetic ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [6, 7, 10, 20, 51, 1000])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_rank_is_the_highest_whose_miss_is_rare_enough(count, confidence):
    rank = lowest_rank(count, confidence)
    assert binom.cdf(rank, count, 0.5) <= (1 - confidence) / 2 < binom.cdf(rank + 1, count, 0.5)


def test_too_few_blocks_have_no_interval():
    assert lowest_rank(LEAST_BLOCKS, 0.95) == 0
    with pytest.raises(ValueError, match="too few"):
        lowest_rank(LEAST_BLOCKS - 1, 0.95)


def test_the_interval_holds_the_true_ratio_as_often_as_it_says_whatever_the_noise():
    draw, inside = random.Random(5), 0
    for _ in range(2000):
        blocks = [
            Block(dense=(1.3 * noise, 1.3 * noise), pruned=(1.0, 1.0))
            for noise in (draw.lognormvariate(0, 0.4) for _ in range(20))
        ]
        speed = speed_of(blocks)
        inside += speed.low <= 1.3 <= speed.high
    assert 0.945 <= inside / 2000 <= 0.975  # exactly 95.86 % for 20 blocks


def test_the_middles_are_medians_and_the_ratio_that_of_the_blocks():
    blocks = [Block(dense=(2.0 + n, 2.0 + n), pruned=(1.0 + n, 1.0 + n)) for n in range(9)]
    speed = speed_of(blocks)
    assert speed.dense.median == 6.0
    assert (speed.dense.low, speed.dense.high) == (4.0, 8.0)
    assert speed.pruned.median == 5.0
    assert speed.speedup == statistics.median((2.0 + n) / (1.0 + n) for n in range(9))
    assert speed.is_faster


def test_a_drift_of_the_machine_is_no_speed_up():
    """Each pass is slower than the one before by the same time: whoever comes second would seem slower."""
    seconds = iter(range(100, 1000))
    blocks = []
    for number in range(12):
        first, second, third, fourth = (next(seconds) for _ in range(4))
        ends, middle = (first, fourth), (second, third)
        blocks.append(
            Block(dense=ends, pruned=middle) if number % 2 == 0 else Block(dense=middle, pruned=ends)
        )
    speed = speed_of(blocks)
    assert speed.low == speed.speedup == speed.high == 1.0
    assert not speed.is_faster


# --- what is timed ---------------------------------------------------------------------------------------------


def test_the_models_take_turns_and_warm_up_first(timed, clock):
    seen = clock(lambda name, number: 1.0)
    latency.run(timed())
    d, p = "dense", "pruned"
    assert seen[: 2 * latency.WARM_UP] == [d, p] * latency.WARM_UP
    assert seen[2 * latency.WARM_UP :] == [d, p, p, d, p, d, d, p] * 3


def test_the_warm_up_does_not_count(timed, clock):
    clock(
        lambda name, number: 100.0 if number <= 2 * latency.WARM_UP else {"dense": 3.0, "pruned": 2.0}[name]
    )
    row = row_of(timed())
    assert (row["dense_seconds"], row["seconds"]) == (3.0, 2.0)
    assert row["speedup"] == row["speedup_low"] == row["speedup_high"] == 1.5


@pytest.mark.parametrize(("seconds", "passes"), [(0.02, 1), (0.005, 1), (0.002, 3), (0.00008, 63)])
def test_short_passes_are_repeated_until_the_clock_can_tell(timed, monkeypatch, seconds, passes):
    asked = []

    def seconds_of(model, batch, passes):
        asked.append(passes)
        return seconds

    monkeypatch.setattr(latency, "seconds_of", seconds_of)
    latency.run(timed("MLPForClassification"))
    assert asked == [1] * 2 * latency.WARM_UP + [passes] * 4 * 6


def test_repeated_passes_are_told_as_one(timed, monkeypatch):
    ran = []
    monkeypatch.setattr(latency, "logits_of", lambda model, batch: ran.append(model))
    monkeypatch.setattr(latency.time, "perf_counter", iter([10.0, 16.0]).__next__)
    work = timed("MLPForClassification")
    assert latency.seconds_of(latency.load(work.model), None, 3) == 2.0
    assert len(ran) == 3


def test_the_row_says_what_was_timed_and_on_what(timed):
    row = row_of(timed())
    assert (row["batch"], row["sequence"], row["repetitions"]) == (2, 8, 6)
    assert row["runtime"] == f"torch {torch.__version__.split('+')[0]} eager"
    assert row["device"] == "cpu, 1 thread"
    assert 0 < row["dense_low_seconds"] <= row["dense_seconds"] <= row["dense_high_seconds"]
    assert 0 < row["low_seconds"] <= row["seconds"] <= row["high_seconds"]
    assert 0 < row["speedup_low"] <= row["speedup"] <= row["speedup_high"]


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        ("LlamaForCausalLM", (2, 8)),
        ("BertForSequenceClassification", (2, 8)),
        ("MLPForClassification", (2, 64)),
        ("ViTForImageClassification", (2, 1, 8, 8)),
    ],
)
def test_both_models_read_the_same_batch_of_the_evaluation_set(timed, monkeypatch, architecture, shape):
    given = []
    monkeypatch.setattr(latency, "logits_of", lambda model, batch: given.append(batch))
    row = row_of(timed(architecture))
    assert len({id(batch) for batch in given}) == 1
    (first, *_) = given[0].inputs.values()
    assert tuple(first.shape) == shape
    assert row["sequence"] == (8 if len(shape) == 2 and shape[1] == 8 else None)


def test_short_texts_are_put_together(timed):
    row = row_of(timed(batch=40, sequence=100))
    assert (row["batch"], row["sequence"]) == (40, 100)


def test_few_examples_are_repeated(timed):
    work = timed("MLPForClassification", batch=40)
    few = replace(work.datasets["evaluation"], samples=3)
    assert row_of(replace(work, datasets={"evaluation": few}))["batch"] == 40


def test_more_tokens_than_the_model_takes_are_not_asked_and_it_is_said(timed):
    product = latency.run(timed(sequence=4000))
    (row,) = product.tables["latencies"]
    assert row["sequence"] == 128
    finding = next(found for found in product.findings if found.kind == "smaller_batch")
    assert "2 x 128 tokens instead of 2 x 4000" in finding.message


# --- what is said of it ----------------------------------------------------------------------------------------


def test_zeros_that_make_nothing_smaller_or_faster_are_a_finding(timed, clock):
    clock(lambda name, number: 1.0 + 0.01 * (number % 3))
    (finding,) = latency.run(timed()).findings
    assert finding.kind == "no_gain"
    assert finding.message.startswith("sparse but neither smaller nor faster: ")
    assert "batch 2 x 8 tokens" in finding.message


def test_what_is_faster_beyond_the_noise_gained_something(timed, clock):
    clock(lambda name, number: {"dense": 2.0, "pruned": 1.0}[name] * (1 + 0.01 * (number % 3)))
    assert latency.run(timed()).findings == ()


def test_what_is_faster_within_the_noise_gained_nothing(timed, clock):
    draw = random.Random(0)
    clock(lambda name, number: {"dense": 1.01, "pruned": 1.0}[name] * draw.lognormvariate(0, 0.3))
    work = timed(repetitions=20)
    row = row_of(work)
    assert row["speedup_low"] < 1 < row["speedup_high"]
    assert [finding.kind for finding in latency.run(work).findings] == ["no_gain"]


def test_smaller_files_are_a_gain(timed, clock, tmp_path, tiny_model):
    clock(lambda name, number: 1.0)
    work = timed()
    smaller = tiny_model(tmp_path / "smaller", config={"num_hidden_layers": 1})
    assert latency.run(replace(work, model=smaller)).findings == ()

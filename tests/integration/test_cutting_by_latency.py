"""A budget of latency: as little is cut as a measured pass needs, the model that is timed is the one that is written."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from tasks import latency, pruning
from tasks.contract import BadInput, Dataset, Work
from tasks.cutting import cuttiming
from tasks.loading.models import load, load_afresh

TIMING = {"batch": 2, "sequence": 8, "repetitions": 6}


@pytest.fixture
def cut(tmp_path, tiny_model, tiny_data):
    """Carries a recipe out on a tiny Llama of 32 hidden neurons a block; (the product, what it wrote)."""

    def cut(limit, shares, dtype="float32", config=None, **params):
        model = tiny_model(
            tmp_path / "model", config={"num_key_value_heads": 2, **(config or {})}, dtype=dtype
        )
        data = Dataset(path=tiny_data(tmp_path / "data")["text"], kind="text", split="calibration", samples=4)
        out = tmp_path / "out"
        out.mkdir()
        asked = {"criterion": "magnitude", "cut": shares, "budget": {"latency": limit}, "timing": TIMING}
        work = Work(model=model, params={**asked, **params}, datasets={"calibration": data}, output=out)
        return pruning.run(work), out

    return cut


@pytest.fixture
def clock(monkeypatch):
    """Replaces the stopwatch by one that tells a time by the model's hidden neurons; the numbers of them that it saw."""

    def make(seconds):
        seen = []

        def seconds_of(model, batch, passes):
            width = model.module.model.layers[0].mlp.down_proj.in_features
            seen.append(width)
            return seconds(width)

        monkeypatch.setattr(latency, "seconds_of", seconds_of)
        return seen

    return make


def config_of(path):
    return json.loads((path / "config.json").read_text())


def test_as_few_neurons_go_as_the_clock_asks_for(cut, clock):
    seen = clock(lambda width: 1.0 + width)  # the dense model has 32: 33 seconds
    product, out = cut(0.7, {"width": 0.75})
    assert config_of(out)["intermediate_size"] == 22  # (1 + 22) / 33 = 0.697, and 23 would be 0.727
    (artifact,) = product.tables["artifacts"]
    assert artifact["latency_ratio"] == pytest.approx(23 / 33)
    assert (artifact["dense_latency_seconds"], artifact["latency_seconds"]) == (33.0, 23.0)
    assert artifact["latency_timings"] == len({*seen} - {32}) <= 8
    rows = product.tables["layers"]
    assert {(row["amount_asked"], row["amount"]) for row in rows} == {(0.75, 1 - 22 / 32)}
    assert not product.findings


def test_widths_are_rounded_before_they_are_timed_and_none_is_timed_twice(cut, clock):
    seen = clock(lambda width: float(width))
    product, out = cut(0.8, {"width": 0.75}, round_to=8)
    assert config_of(out)["intermediate_size"] == 24
    assert {*seen} == {32, 8, 16, 24}
    (artifact,) = product.tables["artifacts"]
    assert artifact["latency_timings"] == 3
    assert all(seen.count(width) == latency.WARM_UP + 2 * TIMING["repetitions"] for width in (8, 16, 24))


def test_a_budget_out_of_reach_keeps_the_most_that_was_allowed_and_says_so(cut, clock):
    clock(lambda width: 100.0 + width)
    product, out = cut(0.5, {"width": 0.5})
    assert config_of(out)["intermediate_size"] == 16
    (finding,) = [finding for finding in product.findings if finding.kind == "budget_missed"]
    assert f"{116 / 132:.3f}" in finding.message
    assert product.tables["artifacts"][0]["latency_ratio"] == pytest.approx(116 / 132)


@pytest.mark.parametrize(("seconds_of_eight", "kinds"), [(17.0, set()), (20.0, {"slower_when_smaller"})])
def test_a_smaller_model_that_is_slower_is_told(cut, clock, seconds_of_eight, kinds):
    clock(lambda width: {8: seconds_of_eight, 16: 18.0}.get(width, float(width)))
    product, out = cut(0.7, {"width": 0.75}, round_to=8)
    assert {finding.kind for finding in product.findings} == kinds
    assert config_of(out)["intermediate_size"] == 16


def test_what_cannot_be_cut_at_all_misses_every_budget(cut, clock):
    seen = clock(lambda width: float(width))
    product, out = cut(0.9, {"width": 0.1}, round_to=32)
    assert config_of(out)["intermediate_size"] == 32
    assert not seen
    assert {finding.kind for finding in product.findings} == {"budget_missed", "zero_effect"}


def test_the_model_that_is_timed_answers_bit_for_bit_as_the_one_that_is_written(cut, monkeypatch):
    timed = []
    built = cuttiming.smaller_model

    def remembered(dense, config, what):
        timed.append(built(dense, config, what))
        return timed[-1]

    monkeypatch.setattr(cuttiming, "smaller_model", remembered)
    monkeypatch.setattr(latency, "seconds_of", lambda model, batch, passes: 1.0)
    _, out = cut(1.0, {"width": 0.5, "heads": 0.5, "depth": 0.5}, dtype="bfloat16")
    ids = torch.arange(3, 19)[None]
    with torch.inference_mode():
        answers = [model.module(input_ids=ids).logits for model in (timed[-1], load_afresh(out))]
    assert torch.equal(*answers)
    assert {weight.dtype for weight in load_file(out / "model.safetensors").values()} == {torch.bfloat16}


def test_with_the_clock_of_this_machine_a_half_as_wide_model_is_faster(cut):
    product, out = cut(
        0.9, {"width": 0.75}, config={"hidden_size": 64, "intermediate_size": 2048}, round_to=256
    )
    (artifact,) = product.tables["artifacts"]
    assert artifact["latency_ratio_low"] <= artifact["latency_ratio"] <= artifact["latency_ratio_high"]
    assert artifact["latency_timings"] >= 1
    missed = "budget_missed" in {finding.kind for finding in product.findings}
    assert missed == (artifact["latency_ratio"] > 0.9)
    assert config_of(out)["intermediate_size"] in range(512, 2048, 256)


def test_the_dense_model_is_as_it_was_after_all_that_timing(cut, tmp_path):
    cut(0.9, {"width": 0.5, "depth": 0.5})
    dense = load(tmp_path / "model").module.state_dict()
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(dense[name], tensor) for name, tensor in stored.items())


@pytest.mark.parametrize(
    ("budget", "why"),
    [
        ({"latency": 0}, "of latency above 0"),
        ({"latency": 1.5}, "must be a share up to 1"),
        ({"latency": 0.5, "parameters": 0.5}, "must name one of"),
    ],
)
def test_budgets_that_mean_nothing_are_refused(cut, budget, why):
    with pytest.raises(BadInput, match=why):
        cut(0.5, {"width": 0.5}, budget=budget)

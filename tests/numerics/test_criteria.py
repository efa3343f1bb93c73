"""Scores by the papers' formulas, computed entry by entry."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tasks.contract import BadInput
from tasks.loading.models import Layer
from tasks.masks.criteria import (
    CRITERIA,
    NOTHING,
    Criterion,
    Seen,
    criterion_named,
    drawn_for,
    layer_score,
    magnitude,
    norms_by_row,
    wanda,
)


def layer(outputs: int, inputs: int, groups: int = 1, transposed: bool = False, shape=None) -> Layer:
    size = outputs * inputs // groups
    return Layer(
        name="l",
        weight="l.weight",
        shape=shape or (outputs, inputs // groups),
        parameters=size,
        outputs=outputs,
        inputs=inputs,
        groups=groups,
        transposed=transposed,
    )


def by_norms(layer: Layer, squares: torch.Tensor) -> Seen:
    return Seen(norms=norms_by_row(layer, squares))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_magnitude_is_the_absolute_value_exactly(dtype):
    weight = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    score = magnitude(weight)
    assert score.dtype == dtype
    assert score.tolist() == [[abs(value) for value in row] for row in weight.tolist()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_wanda_is_weight_times_norm_of_its_input(dtype):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(6, 4, generator=generator).to(dtype)
    inputs = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    squares = inputs.square().sum(dim=0)
    score = layer_score(CRITERIA["wanda"], layer(6, 4), weight, by_norms(layer(6, 4), squares))
    assert score.dtype == torch.float32
    for row in range(6):
        for column in range(4):
            norm = math.sqrt(math.fsum(value * value for value in inputs[:, column].tolist()))
            expected = abs(float(weight[row, column])) * norm
            assert float(score[row, column]) == pytest.approx(expected, rel=1e-6)


def test_dead_inputs_score_zero():
    score = layer_score(
        CRITERIA["wanda"], layer(2, 3), torch.ones(2, 3), by_norms(layer(2, 3), torch.tensor([4.0, 0.0, 9.0]))
    )
    assert score.tolist() == [[2.0, 0.0, 3.0], [2.0, 0.0, 3.0]]


def test_rows_of_a_grouped_convolution_use_the_inputs_of_their_group():
    grouped = layer(4, 6, groups=2, shape=(4, 3, 1, 1))
    squares = torch.tensor([1.0, 4.0, 9.0, 16.0, 25.0, 36.0])
    score = layer_score(CRITERIA["wanda"], grouped, torch.ones(4, 3, 1, 1), by_norms(grouped, squares))
    assert score.tolist() == [[1, 2, 3], [1, 2, 3], [4, 5, 6], [4, 5, 6]]


def test_a_transposed_weight_is_scored_as_its_transpose():
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    squares = torch.tensor([1.0, 4.0, 9.0])
    stored = layer_score(
        CRITERIA["wanda"], layer(5, 3, transposed=True, shape=(3, 5)), weight, by_norms(layer(5, 3), squares)
    )
    plain = layer_score(
        CRITERIA["wanda"], layer(5, 3), weight.t().contiguous(), by_norms(layer(5, 3), squares)
    )
    assert torch.equal(stored, plain)


def test_large_sums_of_squares_do_not_overflow():
    assert norms_by_row(layer(1, 1), torch.tensor([1e60], dtype=torch.float64)).item() == pytest.approx(1e30)


def test_statistics_of_another_layer_are_a_bug():
    with pytest.raises(ValueError, match="has 3 inputs and"):
        norms_by_row(layer(2, 3), torch.ones(4))


def test_wanda_without_statistics_is_a_bug():
    with pytest.raises(ValueError, match="needs norms"):
        wanda(torch.ones(2, 2), NOTHING)


def test_the_registry_says_what_each_criterion_needs():
    assert {name: criterion.needs for name, criterion in CRITERIA.items()} == {
        "magnitude": set(),
        "wanda": {"norms"},
        "activation": {"magnitudes"},
        "variance": {"variances"},
        "taylor": {"gradients"},
        "fisher": {"gradient_norms"},
        "random": {"drawn"},
        "sparsegpt": set(),
    }
    without_data = {name for name, criterion in CRITERIA.items() if not criterion.needs_data}
    assert without_data == {"magnitude", "random"}
    assert criterion_named("wanda") is CRITERIA["wanda"]


def test_what_is_drawn_depends_on_seed_layer_and_row_and_on_no_block_of_rows():
    layer = Layer(name="l", weight="w", shape=(50, 40), parameters=2000, outputs=50, inputs=40)
    whole = drawn_for(layer, 3)
    assert torch.equal(torch.cat([drawn_for(layer, 3, slice(at, at + 7)) for at in range(0, 50, 7)]), whole)
    assert torch.equal(layer_score(criterion_named("random", 3), layer, torch.ones(50, 40), NOTHING), whole)
    assert not torch.equal(drawn_for(layer, 4), whole)
    assert not torch.equal(drawn_for(replace(layer, name="m"), 3), whole)
    assert len({tuple(row) for row in whole.tolist()}) == 50
    assert 0 <= float(whole.min()) < 0.01 < 0.99 < float(whole.max()) < 1
    assert float(whole.mean()) == pytest.approx(0.5, abs=0.02)
    with pytest.raises(ValueError, match="drawn"):
        CRITERIA["random"].score(torch.ones(2, 2), NOTHING)


def test_an_unknown_criterion_names_the_known_ones():
    with pytest.raises(
        BadInput,
        match=r"'magnitud' is unknown.*activation, fisher, magnitude, random, sparsegpt, taylor, variance, wanda",
    ):
        criterion_named("magnitud")


def install(tmp_path, monkeypatch, group: str, name: str, source: str, value: str) -> None:
    """An installed package with one entry point, for as long as a test runs."""
    (tmp_path / "their_package.py").write_text(source)
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "their_package", raising=False)


def test_a_criterion_of_an_installed_package_is_found_by_its_entry_point(tmp_path, monkeypatch):
    source = "from tasks.masks.criteria import Criterion\nmine = Criterion(score=lambda weight, seen: -weight.abs())\n"
    install(tmp_path, monkeypatch, "prunefleet.criteria", "largest", source, "their_package:mine")
    found = criterion_named("largest")
    assert isinstance(found, Criterion)
    assert found.score(torch.tensor([[-2.0]]), NOTHING).tolist() == [[-2.0]]


def test_an_entry_point_that_names_something_else_is_refused(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "prunefleet.criteria", "wrong", "thing = 3\n", "their_package:thing")
    with pytest.raises(BadInput, match="is a int, not a Criterion"):
        criterion_named("wrong")

"""ERK and OWL against their formulas, and the budget against plain counting."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from tasks.amounts.densities import BAND, MULTIPLE, blocks_of, erk, outlier_share, owl, wanda_scores
from tasks.contract import BadInput
from tasks.loading.models import Layer
from tasks.masks.patterns import pruned_count

SHAPES = {"a": (64, 128), "b": (512, 512), "c": (10, 64), "d": (32, 16, 3, 3)}
SIZES = {name: math.prod(shape) for name, shape in SHAPES.items()}
OUTLIERS = {"a": 0.01, "b": 0.002, "c": 0.0, "d": 0.03}


def kept(amounts: dict[str, float]) -> dict[str, int]:
    return {name: size - pruned_count(amounts[name], size) for name, size in SIZES.items()}


def allocations(amount: float, max_amount: float) -> list:
    return [erk(SHAPES, amount, max_amount), owl(SIZES, OUTLIERS, amount, max_amount)]


@pytest.mark.parametrize("amount", [0.0, 0.013, 0.3, 1 / 3, 0.5, 0.77, 0.95, 0.99, 1.0])
def test_the_budget_is_met_to_the_weight(amount):
    total = sum(SIZES.values())
    for found in allocations(amount, 1.0):
        assert sum(kept(found.amounts).values()) == total - pruned_count(amount, total)
        assert all(0 <= share <= 1 for share in found.amounts.values())
        assert math.isnan(found.predicted_increase)


@pytest.mark.parametrize(("amount", "max_amount"), [(0.5, 0.5), (0.7, 0.8), (0.9, 0.95), (0.0, 0.0)])
def test_no_layer_loses_more_than_it_may(amount, max_amount):
    total = sum(SIZES.values())
    for found in allocations(amount, max_amount):
        for name, size in SIZES.items():
            assert pruned_count(found.amounts[name], size) <= pruned_count(max_amount, size)
        assert sum(kept(found.amounts).values()) == total - pruned_count(amount, total)


@pytest.mark.parametrize("index", [0, 1])
def test_a_budget_beyond_what_layers_may_lose_is_refused(index):
    with pytest.raises(BadInput, match=r"0\.8 of all weights cannot go"):
        [lambda: erk(SHAPES, 0.8, 0.5), lambda: owl(SIZES, OUTLIERS, 0.8, 0.5)][index]()


def test_erk_keeps_in_proportion_to_the_sum_of_the_dimensions():
    found = kept(erk(SHAPES, 0.995, 1.0).amounts)
    rate = found["b"] / sum(SHAPES["b"])
    for name, shape in SHAPES.items():
        assert abs(found[name] - rate * sum(shape)) <= 1 + rate


def test_erk_leaves_layers_dense_that_would_keep_more_than_they_have():
    found = erk(SHAPES, 0.5, 1.0).amounts
    assert found["c"] == found["d"] == 0.0
    assert found["b"] > 0.5


def test_owl_keeps_more_of_layers_with_outliers_within_its_band():
    found = owl(SIZES, OUTLIERS, 0.6, 1.0).amounts
    density = {name: 1 - share for name, share in found.items()}
    assert density["d"] > density["a"] > density["b"] > density["c"]
    assert density["d"] - density["c"] == pytest.approx(2 * BAND, abs=2e-3)
    for name, outliers in OUTLIERS.items():
        expected = density["b"] + 2 * BAND * (outliers - 0.002) / 0.03
        assert density[name] == pytest.approx(expected, abs=2 / SIZES[name])


def test_owl_is_uniform_where_all_layers_have_as_many_outliers():
    found = owl(SIZES, dict.fromkeys(SIZES, 0.01), 0.7, 1.0).amounts
    assert all(abs(share - 0.7) <= 1 / SIZES[name] for name, share in found.items())


def test_owl_is_the_paper_s_where_blocks_are_of_one_size():
    """Its code: shares minus the least, stretched to twice lambda, minus their mean, plus the density; all layers of a block alike."""
    shares = {"0": 0.011, "1": 0.002, "2": 0.007, "3": 0.004}
    sizes = {f"{block}.{name}": size for block in shares for name, size in (("q", 40_000), ("up", 120_000))}
    found = owl(sizes, {layer: shares[layer[0]] for layer in sizes}, 0.7, 1.0).amounts
    stretched = {block: (share - 0.002) / 0.009 * 2 * BAND for block, share in shares.items()}
    mean = sum(stretched.values()) / len(stretched)
    for layer, amount in found.items():
        assert 1 - amount == pytest.approx(stretched[layer[0]] - mean + 0.3, abs=2 / sizes[layer])


def a_layer(name: str, outputs: int, inputs: int) -> Layer:
    size = outputs * inputs
    return Layer(
        name=name, weight=name, shape=(outputs, inputs), parameters=size, outputs=outputs, inputs=inputs
    )


@pytest.mark.parametrize("outputs", [(7,), (3000,), (7, 3000, 64)])
def test_outliers_are_the_scores_far_above_the_mean_of_all_of_a_block(outputs):
    generator = torch.Generator().manual_seed(0)
    weights = [
        torch.randn(rows, 400, generator=generator) ** 5 * 3**place for place, rows in enumerate(outputs)
    ]
    squares = torch.rand(400, generator=generator).double()

    def parts() -> Iterator[torch.Tensor]:
        for place, weight in enumerate(weights):
            yield from wanda_scores(a_layer(f"l{place}", len(weight), 400), weight, squares)

    scores = torch.cat([(weight.abs().double() * squares.sqrt()).reshape(-1) for weight in weights])
    expected = int((scores > MULTIPLE * scores.mean()).sum()) / scores.numel()
    assert outlier_share(parts) == pytest.approx(expected, abs=2 / scores.numel())
    assert expected > 0


def test_a_block_without_weights_has_no_outliers():
    assert outlier_share(lambda: [torch.empty(0, 4)]) == 0
    assert outlier_share(lambda: []) == 0


def test_blocks_are_the_members_of_the_outermost_list_of_modules():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.Linear(2, 2)
            self.experts = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

    model = nn.Module()
    model.body = nn.Module()
    model.body.layers = nn.ModuleList([Block() for _ in range(11)])
    model.body.layers_norm = nn.Linear(2, 2)
    model.head = nn.Linear(2, 2)
    names = ["body.layers.1.attention", "body.layers.10.attention", "body.layers.1.experts.0"]
    alone = ["body.layers_norm", "head", "not.there"]
    assert blocks_of(model, [*names, *alone]) == {
        "body.layers.1.attention": "body.layers.1",
        "body.layers.10.attention": "body.layers.10",
        "body.layers.1.experts.0": "body.layers.1",
        **{name: name for name in alone},
    }
    assert blocks_of(nn.ModuleList([nn.Linear(2, 2)]), ["0"]) == {"0": "0"}

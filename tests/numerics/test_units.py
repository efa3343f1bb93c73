"""What units are worth and which of them stay, against sums by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.contract import BadInput
from tasks.cutting.axes import Axis, Dim
from tasks.cutting.choosing import best_blocks, choose_cut
from tasks.cutting.cutrecipes import read_cut
from tasks.cutting.cuts import Cut, without
from tasks.cutting.symmetry import Group, Slot
from tasks.cutting.units import choose, kept_count, readers, worth
from tasks.cutting.worths import Worths
from tasks.loading.models import Layer
from tasks.masks.criteria import NOTHING, Seen, criterion_named
from tasks.masks.patterns import NotANumber


def an_axis(count, kind="width", dims=()):
    return Axis(kind=kind, name="n", count=count, per_unit={("n",): 1}, fixed={}, dims=dims)


def a_group(units, *dims, parts=1, stretches=None, axis=None):
    slots = tuple(Slot(dim=dim, stretches=(stretches or {}).get(dim.tensor, (1,))) for dim in dims)
    return Group(name="g", axis=axis or an_axis(units), units=units, slots=slots, parts=parts)


def a_layer(name, outputs, inputs, transposed=False):
    shape = (inputs, outputs) if transposed else (outputs, inputs)
    return Layer(
        name=name.removesuffix(".weight"), weight=name, shape=shape, parameters=outputs * inputs,
        outputs=outputs, inputs=inputs, transposed=transposed,
    )  # fmt: skip


UP = Dim(tensor="up.weight", index=0, size=4)
BIAS = Dim(tensor="up.bias", index=0, size=4)
DOWN = Dim(tensor="down.weight", index=1, size=4)
WEIGHTS = {
    "up.weight": torch.tensor([[1.0, 2.0], [0.0, 1.0], [3.0, 0.0], [1.0, 1.0]]),
    "up.bias": torch.tensor([100.0, 100.0, 100.0, 100.0]),
    "down.weight": torch.tensor([[1.0, 0.0, 2.0, 1.0], [0.0, 5.0, 0.0, 1.0]]),
}
LAYERS = {"up.weight": a_layer("up.weight", 4, 2), "down.weight": a_layer("down.weight", 2, 4)}


def test_by_magnitude_a_unit_is_worth_the_squares_of_every_matrix_that_holds_it_and_no_bias():
    group = a_group(4, UP, BIAS, DOWN)
    found = worth(group, criterion_named("magnitude"), LAYERS, WEIGHTS.__getitem__, lambda layer: NOTHING)
    assert found.tolist() == [[1 + 4 + 1, 1 + 25, 9 + 4, 1 + 1 + 1 + 1]]


def test_by_wanda_a_unit_is_worth_what_those_miss_who_read_it():
    group = a_group(4, UP, BIAS, DOWN)
    norms = torch.tensor([[3.0, 0.1, 1.0, 2.0]])
    found = worth(
        group, criterion_named("wanda"), LAYERS, WEIGHTS.__getitem__, lambda layer: Seen(norms=norms)
    )
    torch.testing.assert_close(found, torch.tensor([[9.0, 0.25, 4.0, 8.0]], dtype=torch.float64))


def test_of_a_transposed_layer_the_first_dimension_is_read():
    layers = {"down.weight": a_layer("down.weight", 2, 4, transposed=True)}
    group = a_group(4, Dim(tensor="down.weight", index=0, size=4))
    assert len(readers(group, layers)) == 1
    weights = {"down.weight": WEIGHTS["down.weight"].t()}
    found = worth(
        group,
        criterion_named("wanda"),
        layers,
        weights.__getitem__,
        lambda layer: Seen(norms=torch.ones(1, 4)),
    )
    assert found.tolist() == [[1, 25, 4, 2]]


def test_units_that_no_layer_reads_cannot_be_scored_by_data():
    with pytest.raises(BadInput, match="can be calibrated"):
        worth(a_group(4, UP), criterion_named("wanda"), LAYERS, WEIGHTS.__getitem__, lambda layer: NOTHING)


def test_stretches_and_blocks_of_a_dimension_go_to_their_unit():
    dim = Dim(tensor="qkv", index=0, size=8)
    group = a_group(2, dim, stretches={"qkv": (2, 1, 1)})
    weights = {"qkv": torch.tensor([[1.0], [2], [3], [4], [5], [6], [7], [8]])}
    found = worth(group, criterion_named("magnitude"), {}, weights.__getitem__, lambda layer: NOTHING)
    assert found.tolist() == [[1 + 4 + 25 + 49, 9 + 16 + 36 + 64]]


def test_parts_are_scored_apart():
    group = a_group(2, Dim(tensor="w", index=1, size=2), parts=2)
    weights = {"w": torch.tensor([[[1.0], [2]], [[3], [4]]])}
    found = worth(group, criterion_named("magnitude"), {}, weights.__getitem__, lambda layer: NOTHING)
    assert found.tolist() == [[1, 4], [9, 16]]


@given(st.integers(1, 40), st.floats(0, 1), st.integers(1, 16))
def test_what_stays_is_a_multiple_that_is_not_less_than_asked_for_nor_nothing(count, amount, round_to):
    axis = an_axis(count)
    kept = kept_count(axis, amount, round_to, [a_group(count, axis=axis)])
    assert 1 <= kept <= count
    assert kept == count or kept % round_to == 0
    assert kept >= count - round(count * amount + 0.5)


def test_heads_are_not_rounded():
    axis = an_axis(6, kind="heads")
    assert kept_count(axis, 0.5, 8, [a_group(6, axis=axis)]) == 3


def test_groups_of_fewer_units_bind_the_whole_axis():
    """A bottleneck has a quarter of the channels: only multiples of four leave it whole units."""
    axis = an_axis(16)
    assert kept_count(axis, 0.3, 1, [a_group(16, axis=axis), a_group(4, axis=axis)]) == 12


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.data())
def test_the_units_of_greatest_worth_stay_and_of_equals_the_first(values, data):
    count = len(values)
    kept = data.draw(st.integers(1, count))
    group = a_group(count)
    choice = choose(group, torch.tensor([values], dtype=torch.float64), kept)
    by_hand = sorted(sorted(range(count), key=lambda unit: (-values[unit], unit))[:kept])
    assert choice.kept[0].tolist() == by_hand
    assert choice.removed[0].tolist() == [unit for unit in range(count) if unit not in by_hand]
    gone = sum(values) - sum(values[unit] for unit in by_hand)
    assert choice.error == pytest.approx(gone / sum(values) if sum(values) else 0)


def test_a_unit_without_which_the_loss_is_infinite_stays():
    choice = choose(a_group(3), torch.tensor([[2.0, float("inf"), 1.0]], dtype=torch.float64), 1)
    assert choice.kept[0].tolist() == [1]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_worths_that_are_no_numbers_choose_nothing(place):
    worths = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    worths[place] = float("nan")
    with pytest.raises(NotANumber):
        choose(a_group(3), worths[None], 2)
    with pytest.raises(NotANumber):
        best_blocks(worths, 0.5)


def test_a_recipe_is_told_whose_scores_are_no_numbers():
    recipe = read_cut({"criterion": "wanda", "cut": {"width": 0.5}})
    worths = Worths(units=(torch.tensor([[1.0, float("nan")]], dtype=torch.float64),), blocks=None)
    with pytest.raises(BadInput, match="wanda gives one of g a score that is not a number"):
        choose_cut(recipe, [a_group(2)], None, worths)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=9), st.floats(0, 1))
def test_one_block_stays_at_least(values, share):
    blocks = best_blocks(torch.tensor(values, dtype=torch.float64), share)
    assert blocks == tuple(sorted(set(blocks)))
    assert 1 <= len(blocks) <= len(values)
    assert max(values) in [values[block] for block in blocks]


def test_what_a_cut_leaves_of_a_weight_and_what_it_empties():
    group = a_group(4, UP, BIAS, DOWN)
    cut = Cut(choices=(choose(group, torch.tensor([[1.0, 4, 3, 2]], dtype=torch.float64), 2),))
    assert torch.equal(cut.sliced("down.weight", WEIGHTS["down.weight"]), WEIGHTS["down.weight"][:, [1, 2]])
    assert torch.equal(cut.sliced("other", torch.ones(2)), torch.ones(2))
    emptied = cut.emptied(WEIGHTS)
    assert emptied["up.bias"].tolist() == [0, 100, 100, 0]
    assert emptied["down.weight"].tolist() == [[0, 0, 2, 0], [0, 5, 0, 0]]
    assert WEIGHTS["up.bias"].tolist() == [100] * 4


def test_a_weight_that_is_cut_along_both_dimensions_is_emptied_along_both():
    rows = a_group(2, Dim(tensor="w", index=0, size=2))
    columns = a_group(2, Dim(tensor="w", index=1, size=2))
    weights = {"w": torch.ones(2, 2)}
    first = torch.tensor([[1.0, 2]], dtype=torch.float64)
    cut = Cut(choices=(choose(rows, first, 1), choose(columns, first, 1)))
    assert cut.emptied(weights)["w"].tolist() == [[0, 0], [0, 1]]
    assert cut.sliced("w", weights["w"]).shape == (1, 1)


def test_one_weight_that_both_writes_and_reads_a_unit_is_emptied_in_both_places():
    group = a_group(2, Dim(tensor="w", index=1, size=2), Dim(tensor="w", index=0, size=2))
    found = without(group, [torch.tensor([0])], {"w": torch.ones(2, 2)})
    assert found["w"].tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("cut", [{}, {"width": 1.5}, {"width": -0.1}, {"depth": float("nan")}])
def test_params_that_make_no_sense_are_refused(cut):
    with pytest.raises(BadInput, match="cut"):
        read_cut({"criterion": "magnitude", "cut": cut})

"""Masks against brute force: the counts are exact and the written tie rule holds, whatever the scores look like."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tasks.masks.patterns
from tasks.masks.patterns import kept_of_group, mark_upright, mask_lowest, mask_of, pruned_count

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def lowest_by_sorting(scores: list[float], count: int) -> list[bool]:
    """The rule as it is written: lowest first, and of equals the last first."""
    order = sorted(range(len(scores)), key=lambda index: (scores[index], -index))
    gone = set(order[:count])
    return [index in gone for index in range(len(scores))]


def rounded_half_up(amount: float, size: int) -> int:
    exact = Fraction(str(amount)) * size
    return int(exact) + (exact - int(exact) >= Fraction(1, 2))


def draw(generator: np.random.Generator, size: int) -> np.ndarray:
    """Scores of every unpleasant kind: distinct, few values, all equal, zeros of both signs, negative, mostly equal."""
    kind = generator.integers(0, 6)
    if kind == 0:
        return generator.standard_normal(size)
    if kind == 1:
        return generator.integers(0, 3, size).astype(float)
    if kind == 2:
        return np.full(size, generator.choice([0.0, -0.0, 1.5, 1e-40]))
    if kind == 3:
        return generator.choice([0.0, -0.0, 1.0], size)
    if kind == 4:
        return np.abs(generator.standard_normal(size))
    return np.where(generator.random(size) < 0.9, 0.25, generator.random(size))


def draw_amount(generator: np.random.Generator) -> float:
    special = [0.0, 1.0, 0.5, 1e-9, 0.999999, 0.05, 0.35, 0.1, 0.7]
    return float(generator.choice(special)) if generator.random() < 0.6 else float(generator.random())


def test_half_of_four_equals_prunes_exactly_two_and_keeps_the_first():
    mask = mask_of(torch.ones(1, 4), 0.5, "unstructured", "tensor")
    assert mask.tolist() == [[False, False, True, True]]


def test_two_of_four_equals_stay_and_they_are_the_first():
    mask = mask_of(torch.ones(1, 4), None, "2:4", None)
    assert mask.tolist() == [[False, False, True, True]]


def test_zero_and_minus_zero_are_equal():
    mask = mask_of(torch.tensor([[0.0, -0.0, -0.0, 0.0]]), 0.5, "unstructured", "tensor")
    assert mask.tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("scope", ["tensor", "row", None])
def test_unstructured_masks_equal_brute_force_in_every_drawn_case(scope):
    generator = np.random.default_rng(7)
    for case in range(1500):
        rows, columns = int(generator.integers(1, 7)), int(generator.integers(1, 24))
        amount = draw_amount(generator)
        dtype = DTYPES[case % len(DTYPES)]
        score = torch.from_numpy(draw(generator, rows * columns)).reshape(rows, columns).to(dtype)
        mask = mask_of(score, amount, "unstructured", scope)
        values = score.double().tolist()
        if scope == "row":
            expected = [lowest_by_sorting(row, rounded_half_up(amount, columns)) for row in values]
        else:
            flat = [value for row in values for value in row]
            flags = lowest_by_sorting(flat, rounded_half_up(amount, rows * columns))
            expected = [flags[start : start + columns] for start in range(0, len(flags), columns)]
        assert mask.tolist() == expected, (case, amount, dtype)
        assert mask.dtype == torch.bool


@pytest.mark.parametrize("pattern", ["2:4", "4:8", "1:2", "1:4", "3:4", "1:17", "16:32", "7:9"])
def test_group_masks_equal_brute_force_in_every_drawn_case(pattern):
    kept, group = map(int, pattern.split(":"))
    generator = np.random.default_rng(11)
    for case in range(400):
        rows, groups = int(generator.integers(1, 5)), int(generator.integers(1, 5))
        dtype = DTYPES[case % len(DTYPES)]
        score = (
            torch.from_numpy(draw(generator, rows * groups * group)).to(dtype).reshape(rows, groups * group)
        )
        mask = mask_of(score, None, pattern, None)
        for row_score, row_mask in zip(score.double().tolist(), mask.tolist(), strict=True):
            for start in range(0, len(row_score), group):
                members = slice(start, start + group)
                expected = lowest_by_sorting(row_score[members], group - kept)
                assert row_mask[members] == expected, (case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("amount", [0.0003, 0.1, 0.5, 0.9, 0.9999])
def test_large_tensors_take_the_quick_way_and_get_the_same_mask(dtype, amount):
    generator = torch.Generator().manual_seed(3)
    score = torch.randn(1000, 700, generator=generator).abs().to(dtype)
    mask = mask_of(score, amount, "unstructured", "tensor").reshape(-1).numpy()
    flat = score.double().reshape(-1).numpy()
    order = np.lexsort((-np.arange(flat.size), flat))
    expected = np.zeros(flat.size, dtype=bool)
    expected[order[: pruned_count(amount, flat.size)]] = True
    assert (mask == expected).all()


@pytest.mark.parametrize("values", ["equal", "two", "sorted", "blocks"])
def test_large_tensors_that_mislead_a_sample_are_still_exact(values):
    size = 1 << 20
    score = {
        "equal": np.full(size, 2.0, dtype=np.float32),
        "two": np.repeat(np.float32([1.0, 5.0]), size // 2),
        "sorted": np.arange(size, dtype=np.float32),
        "blocks": np.tile(np.repeat(np.float32([3.0, 1.0, 2.0, 1.0]), 256), size // 1024),
    }[values]
    for count in (1, size // 3, size // 2, size - 1):
        order = np.lexsort((-np.arange(size), score))
        expected = np.zeros(size, dtype=bool)
        expected[order[:count]] = True
        assert (mask_lowest(score, count) == expected).all(), count


def test_a_threshold_outside_the_bracket_of_the_sample_is_found_all_the_same():
    score = np.zeros(1 << 20, dtype=np.float32)
    score[:5] = [-5, -4, -3, -2, -1]
    assert np.flatnonzero(mask_lowest(score, 3)).tolist() == [0, 1, 2]
    assert np.flatnonzero(~mask_lowest(-score, score.size - 2)).tolist() == [0, 1]


def test_views_and_convolutions_give_the_mask_of_their_values():
    score = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    strided = score.t()[::2]
    assert torch.equal(
        mask_of(strided, 0.4, "unstructured", "row"),
        mask_of(strided.contiguous(), 0.4, "unstructured", "row"),
    )
    kernel = score.reshape(4, 3, 2, 2)
    assert mask_of(kernel, None, "2:4", None).shape == kernel.shape
    assert torch.equal(
        mask_of(kernel, None, "2:4", None).reshape(4, 12), mask_of(kernel.reshape(4, 12), None, "2:4", None)
    )


def test_every_row_loses_the_same_number_in_row_scope():
    score = torch.randn(33, 45, generator=torch.Generator().manual_seed(1))
    mask = mask_of(score, 0.37, "unstructured", "row")
    assert mask.sum(dim=1).tolist() == [pruned_count(0.37, 45)] * 33


@pytest.mark.parametrize(
    ("amount", "size", "count"),
    [
        (0.5, 3, 2),
        (0.5, 1, 1),
        (0.49, 1, 0),
        (0.35, 10, 4),
        (0.1, 5, 1),
        (0.15, 10, 2),
        (0.45, 10, 5),
        (0.29, 50, 15),
        (0.49999999999999994, 1, 0),
        (1.0, 7, 7),
        (0.0, 7, 0),
        (1e-12, 10**11, 0),
        (0.9, 0, 0),
    ],
)
def test_counts_round_half_up_in_decimal(amount, size, count):
    assert pruned_count(amount, size) == count


@pytest.mark.parametrize("amount", [-0.1, 1.1, float("nan"), float("inf")])
def test_amounts_outside_zero_to_one_are_refused(amount):
    with pytest.raises(ValueError, match="share from 0 to 1"):
        mask_of(torch.ones(2, 2), amount, "unstructured", "tensor")


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_that_are_no_numbers_are_refused(dtype):
    score = torch.ones(3, 4).to(dtype)
    score[1, 2] = float("nan")
    for pattern, scope in (("unstructured", "tensor"), ("unstructured", "row"), ("2:4", None)):
        with pytest.raises(ValueError, match="not a number"):
            mask_of(score, 0.5, pattern, scope)


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinite_scores_are_ordered_like_others(dtype):
    score = torch.tensor([[float("inf"), 1.0, float("inf"), 2.0]]).to(dtype)
    assert mask_of(score, 0.5, "unstructured", "tensor").tolist() == [[False, True, False, True]]
    score = torch.tensor([[float("-inf"), float("inf"), 0.0, 0.0]]).to(dtype)
    assert mask_of(score, 0.5, "unstructured", "tensor").tolist() == [[True, False, False, True]]


def test_a_group_that_does_not_divide_the_inputs_is_refused_and_never_padded():
    with pytest.raises(ValueError, match="4 does not divide the 6 inputs"):
        mask_of(torch.ones(2, 6), None, "2:4", None)


def test_an_amount_that_contradicts_the_pattern_is_refused():
    with pytest.raises(ValueError, match="prunes 0.5"):
        mask_of(torch.ones(2, 4), 0.7, "2:4", None)
    assert mask_of(torch.ones(2, 4), 0.5, "2:4", None).sum() == 4


@pytest.mark.parametrize("pattern", ["", "4:2", "2:2", "0:4", "a:b", "2:4:8", "2:100", "nm"])
def test_words_that_are_no_pattern_are_refused(pattern):
    with pytest.raises(ValueError, match="no pattern"):
        kept_of_group(pattern)


def test_a_word_that_is_no_scope_is_refused():
    with pytest.raises(ValueError, match="no scope"):
        mask_of(torch.ones(2, 4), 0.5, "unstructured", "column")


@pytest.mark.parametrize(
    ("pattern", "scope"), [("unstructured", "tensor"), ("unstructured", "row"), ("2:4", None)]
)
def test_empty_tensors_have_empty_masks(pattern, scope):
    assert mask_of(torch.empty(0, 4), 0.5, pattern, scope).shape == (0, 4)
    assert mask_of(torch.empty(4, 0), 0.5, pattern, scope).shape == (4, 0)


def test_scores_are_left_as_they_were():
    score = torch.randn(40, 40, generator=torch.Generator().manual_seed(5))
    before = score.clone()
    mask_of(score, 0.3, "unstructured", "tensor")
    mask_of(score, 0.3, "unstructured", "row")
    assert torch.equal(score, before)


@given(
    st.integers(2, 20).flatmap(
        lambda group: st.tuples(
            st.integers(1, group - 1),
            st.lists(st.lists(st.integers(0, 4), min_size=group, max_size=group), min_size=1, max_size=6),
        )
    )
)
def test_groups_that_stand_upright_are_masked_as_those_that_lie(drawn):
    kept, rows = drawn
    score = torch.tensor(rows, dtype=torch.float32)
    lying = mask_of(score, None, f"{kept}:{score.shape[1]}", None)
    gone = torch.empty(score.t().shape)
    mark_upright(score.t(), kept, gone)
    assert torch.equal(gone, lying.t().float())


@pytest.mark.parametrize("group", [*range(2, 17), 32, 99])
def test_long_rows_of_groups_are_masked_as_by_a_sort_of_each(monkeypatch, group):
    """Several times as many scores as are handled together, with equals and without; every number that stays of small groups."""
    monkeypatch.setattr(tasks.masks.patterns, "_CHUNK", 1 << 14)
    draw = np.random.default_rng(group)
    groups = 50_000 // (8 * group) * 8
    for kept in {1, group // 2, group - 1, *range(1, min(group, 9))}:
        for scores in (
            draw.random((groups, group), dtype=np.float32),
            draw.integers(0, 3, (groups, group)).astype(np.float32),
        ):
            mask = mask_of(torch.from_numpy(scores), None, f"{kept}:{group}", None).numpy()
            order = np.argsort(-scores, axis=1, kind="stable")
            expected = np.ones_like(mask)
            np.put_along_axis(expected, order[:, :kept], False, axis=1)
            assert (mask == expected).all(), (kept, group)

"""Every mask against a full sort by loops: criteria, patterns, scopes and dtypes, with ties, zeros and single weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.loading.models import Layer
from tasks.masks.criteria import CRITERIA, KINDS, Seen, layer_score
from tasks.masks.masking import mask_layer
from tasks.masks.patterns import NotANumber, block_of, kept_of_group, mask_of
from tasks.writing.ranking import counts_of_lowest, keys_in_order

Rows = Sequence[Sequence[float]]
AMOUNTS = (0.0, 0.1, 0.35, 0.5, 0.9, 1.0)
SCORED = [name for name, criterion in CRITERIA.items() if not criterion.reconstructs]


def asked(amount: float, size: int) -> int:
    """How many of `size` go, halves upwards, in decimal."""
    return int((Decimal(repr(amount)) * size).to_integral_value(ROUND_HALF_UP))


def lowest(scores: Mapping[object, float], count: int) -> set[object]:
    """The places of the lowest scores; of equals those that come later."""
    places = list(scores)
    order = sorted(range(len(places)), key=lambda at: (scores[places[at]], -at))
    return {places[at] for at in order[:count]}


def by_loops(score: Rows, amount: float, pattern: str, scope: str | None) -> list[list[bool]]:
    """The mask, one decision at a time."""
    high, wide = len(score), len(score[0])
    gone: set[object] = set()
    if groups := kept_of_group(pattern):
        kept, size = groups
        for row in range(high):
            for start in range(0, wide, size):
                group = {(row, column): score[row][column] for column in range(start, start + size)}
                gone |= lowest(group, size - kept)
    elif block := block_of(pattern):
        rows, columns = block
        worth: dict[tuple[int, int], float] = {}
        for row in range(high):
            for column in range(wide):
                at = row // rows, column // columns
                worth[at] = worth.get(at, 0.0) + score[row][column] * score[row][column]
        worth = {at: worth[at] for at in sorted(worth)}
        bands = [{at: w for at, w in worth.items() if at[0] == band} for band in range(high // rows)]
        blocks = set()
        for part in bands if scope == "row" else [worth]:
            blocks |= lowest(part, asked(amount, len(part)))
        gone = {(r, c) for r in range(high) for c in range(wide) if (r // rows, c // columns) in blocks}
    elif scope == "row":
        for row in range(high):
            gone |= lowest({(row, column): score[row][column] for column in range(wide)}, asked(amount, wide))
    else:
        whole = {(row, column): score[row][column] for row in range(high) for column in range(wide)}
        gone = lowest(whole, asked(amount, high * wide))
    return [[(row, column) in gone for column in range(wide)] for row in range(high)]


def layer_of(
    outputs: int, inputs: int, *, transposed: bool = False, groups: int = 1, name: str = "l"
) -> Layer:
    width = inputs // groups
    return Layer(
        name=name,
        weight=f"{name}.weight",
        shape=(inputs, outputs) if transposed else (outputs, width),
        parameters=outputs * width,
        outputs=outputs,
        inputs=inputs,
        groups=groups,
        transposed=transposed,
    )


def seen_for(layer: Layer, generator: torch.Generator) -> Seen:
    wide = layer.inputs // layer.groups
    return Seen(
        **{
            kind: (
                torch.randint(
                    0, 4, (layer.outputs if kind.startswith("gradient") else 1, wide), generator=generator
                )
            ).float()
            for kind in KINDS
        }
    )


WEIGHTS = {
    "drawn": lambda shape, generator: torch.randn(shape, generator=generator),
    "ties": lambda shape, generator: torch.randint(-2, 3, shape, generator=generator).float(),
    "zeros": lambda shape, generator: torch.zeros(shape),
    "tiny": lambda shape, generator: torch.randn(shape, generator=generator) * 1e-6,
}


@pytest.mark.parametrize("criterion", SCORED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "1:8", "block:2x4", "block:4x1", "block:1x8"])
def test_the_mask_of_a_layer_is_that_of_a_full_sort(monkeypatch, criterion, dtype, pattern):
    import tasks.masks.masking

    generator = torch.Generator().manual_seed(7)
    is_n_of_m = kept_of_group(pattern) is not None
    for transposed in (False, True):
        layer = layer_of(8, 16, transposed=transposed)
        for kind, make in WEIGHTS.items():
            weight = make(layer.shape, generator).to(dtype)
            seen = seen_for(layer, generator)
            known = CRITERIA[criterion]
            score = layer_score(known, layer, weight, seen).double().tolist()
            for amount in (None,) if is_n_of_m else AMOUNTS:
                for scope in (None,) if is_n_of_m else ("tensor", "row"):
                    for entries in (1, 1 << 20):
                        monkeypatch.setattr(tasks.masks.masking, "_BLOCK", entries)
                        found = mask_layer(
                            known, layer, weight, seen,
                            amount=1 - 2 / 4 if pattern == "2:4" else 7 / 8 if is_n_of_m else amount,
                            pattern=pattern, scope=scope,
                        )  # fmt: skip
                        expected = by_loops(score, amount or 0.0, pattern, scope)
                        assert found.mask.tolist() == expected, (kind, amount, scope)
                        assert found.pruned == sum(map(sum, expected))


@pytest.mark.parametrize("pattern", ["unstructured", "block:1x1"])
@pytest.mark.parametrize("scope", ["tensor", "row"])
@pytest.mark.parametrize("amount", AMOUNTS)
def test_a_single_row_and_a_single_weight_are_masked_like_any_other(pattern, scope, amount):
    for shape in ((1, 1), (1, 7), (7, 1)):
        score = torch.ones(shape)
        assert mask_of(score, amount, pattern, scope).tolist() == by_loops(
            score.tolist(), amount, pattern, scope
        )


@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.sampled_from(AMOUNTS),
    st.sampled_from(["tensor", "row"]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_blocks_go_by_the_sum_of_their_squares(bands, stripes, rows, columns, amount, scope, seed):
    draw = np.random.default_rng(seed)
    score = draw.integers(0, 3, (bands * rows, stripes * columns)).astype(np.float32)
    pattern = f"block:{rows}x{columns}"
    found = mask_of(torch.from_numpy(score), amount, pattern, scope)
    assert found.tolist() == by_loops(score.tolist(), amount, pattern, scope)
    blocks = found.reshape(bands, rows, stripes, columns)
    assert bool((blocks.any(3).any(1) == blocks.all(3).all(1)).all())
    if scope == "tensor":
        assert int(found.sum()) == asked(amount, bands * stripes) * rows * columns


def test_blocks_that_do_not_divide_a_matrix_and_scores_that_are_none_are_refused():
    with pytest.raises(ValueError, match="blocks of 2 x 4 do not divide a matrix of 3 x 4"):
        mask_of(torch.ones(3, 4), 0.5, "block:2x4", None)
    with pytest.raises(NotANumber):
        mask_of(torch.full((2, 2), math.nan), 0.5, "block:2x2", None)
    with pytest.raises(ValueError, match="is no scope"):
        mask_of(torch.ones(2, 2), 0.5, "block:2x2", "column")
    with pytest.raises(ValueError, match="needs an amount"):
        mask_of(torch.ones(2, 2), None, "block:2x2", None)
    assert block_of("2:4") is block_of("unstructured") is block_of("block:0x4") is None


# --- one ranking of all layers


def ranking_by_loops(
    scores: Mapping[str, Sequence[float]], wanted: int, least: Mapping[str, int], most: Mapping[str, int]
) -> dict[str, int]:
    """Each layer loses its least first; then all that is left goes in one order, while its layer may lose more."""
    gone = {name: lowest(dict(enumerate(values)), least[name]) for name, values in scores.items()}
    every = [
        (value, -order, -at, name)
        for order, (name, values) in enumerate(scores.items())
        for at, value in enumerate(values)
    ]
    for _, _, at, name in sorted(every):
        if sum(map(len, gone.values())) == wanted:
            break
        if -at not in gone[name] and len(gone[name]) < most[name]:
            gone[name].add(-at)
    return {name: len(places) for name, places in gone.items()}


def counted(scores: Mapping[str, Sequence[float]], wanted: int, least, most, bits: int = 32, parts: int = 2):
    kind = torch.float32 if bits == 32 else torch.float64

    def keys():
        for name, values in scores.items():
            for part in torch.tensor(values, dtype=kind).tensor_split(parts):
                yield name, keys_in_order(part, bits)

    sizes = {name: len(values) for name, values in scores.items()}
    return counts_of_lowest(sizes, keys, bits, wanted, least, most)


@st.composite
def rankings(draw):
    numbers = st.one_of(st.sampled_from([-0.0, 0.0, 1.0, 1.5]), st.floats(0, 2.0**100, width=32))
    scores = draw(
        st.dictionaries(st.sampled_from("abcdef"), st.lists(numbers, max_size=12), min_size=1, max_size=5)
    )
    least, most = {}, {}
    for name, values in scores.items():
        least[name] = draw(st.integers(0, len(values)))
        most[name] = draw(st.integers(least[name], len(values)))
    wanted = draw(st.integers(sum(least.values()), sum(most.values())))
    return scores, wanted, least, most


@given(rankings(), st.sampled_from([32, 64]), st.integers(1, 3))
def test_one_ranking_counts_what_a_full_sort_counts(case, bits, parts):
    scores, wanted, least, most = case
    found = counted(scores, wanted, least, most, bits, parts)
    assert found == ranking_by_loops(scores, wanted, least, most)
    assert sum(found.values()) == wanted


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=30))
def test_keys_are_in_the_order_of_the_scores(values):
    for bits, kind in ((32, torch.float32), (64, torch.float64)):
        keys = keys_in_order(torch.tensor(values, dtype=kind), bits).tolist()
        for one, first in zip(values, keys, strict=True):
            for other, second in zip(values, keys, strict=True):
                assert (one < other) == (first < second)


def test_scores_that_are_no_numbers_or_too_wide_have_no_keys():
    with pytest.raises(NotANumber):
        keys_in_order(torch.tensor([1.0, math.nan]), 32)
    with pytest.raises(ValueError, match="float64"):
        keys_in_order(torch.ones(2, dtype=torch.float64), 32)
    assert keys_in_order(torch.ones(2, dtype=torch.bfloat16), 32).dtype == np.uint32


def test_sixty_four_bits_tell_apart_what_thirty_two_cannot():
    scores = {"a": [1.0 + 1e-12], "b": [1.0]}
    bounds = dict.fromkeys(scores, 0), dict.fromkeys(scores, 1)
    assert counted(scores, 1, *bounds, bits=64, parts=1) == {"a": 0, "b": 1}
    equal = {"a": [1.0], "b": [1.0]}
    assert counted(equal, 1, *bounds, parts=1) == {"a": 0, "b": 1}, "of equals the later layer's goes"


def test_a_thousand_layers_and_more_are_ranked_alike():
    draw = np.random.default_rng(0)
    scores = {f"l{n}": draw.integers(0, 50, 2).astype(np.float32).tolist() for n in range(1100)}
    least, most = dict.fromkeys(scores, 0), {name: 1 + (name[-1] in "02468") for name in scores}
    assert counted(scores, 700, least, most) == ranking_by_loops(scores, 700, least, most)

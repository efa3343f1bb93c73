"""SparseGPT's sweep against exact optimal brain surgery, one column after the other with an explicit inverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tasks.loading.models import Layer
from tasks.masks.patterns import NotANumber, mask_of, pruned_count
from tasks.masks.reconstruct import (
    BLOCK,
    DAMPINGS,
    NotPositive,
    block_quotas,
    factor_of,
    reconstruct,
    reconstructed_weight,
    sweep,
)


def drawn(outputs: int, inputs: int, seed: int = 0, tokens: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """(weight, inputs [tokens, inputs] that depend on each other)."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=generator) / inputs**0.5 + torch.eye(inputs)
    scales = torch.rand(inputs, generator=generator) * 2 + 0.1
    x = torch.randn(tokens, inputs, generator=generator) @ mixing * scales
    return torch.randn(outputs, inputs, generator=generator), x


def layer_of(weight: torch.Tensor, transposed: bool = False) -> Layer:
    outputs, inputs = reversed(weight.shape) if transposed else weight.shape
    return Layer(
        name="l",
        weight="l.weight",
        shape=tuple(weight.shape),
        parameters=weight.numel(),
        outputs=outputs,
        inputs=inputs,
        transposed=transposed,
    )


def exact_obs(
    weight: torch.Tensor, x: torch.Tensor, mask: np.ndarray | None, blocks: list[tuple[int, int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Column by column in float64, with the inverse of the damped Hessian of the columns that remain.

    Without a mask, (start, stop, count) are chosen from as they come: the lowest w^2 / [H^-1]_jj, of equals the last.
    """
    left, h = weight.double().numpy().copy(), (x.double().T @ x.double()).numpy()
    h += DAMPINGS[0] * np.diag(h).mean() * np.eye(len(h))
    inverse_diagonal = [np.linalg.inv(h[j:, j:])[0, 0] for j in range(len(h))] if blocks else []
    chosen = np.zeros(left.shape, bool) if mask is None else mask
    starts = {start: (stop, count) for start, stop, count in blocks}
    for j in range(left.shape[1]):
        if j in starts:
            stop, count = starts[j]
            scores = left[:, j:stop] ** 2 / np.array(inverse_diagonal[j:stop])
            order = sorted(range(scores.size), key=lambda at: (scores.reshape(-1)[at], -at))
            part = np.zeros(scores.size, bool)
            part[order[:count]] = True
            chosen[:, j:stop] = part.reshape(scores.shape)
        inverse = np.linalg.inv(h[j:, j:])
        for row in np.flatnonzero(chosen[:, j]):
            left[row, j:] -= left[row, j] / inverse[0, 0] * inverse[0]
            left[row, j] = 0.0
    return left, chosen


def hessian_of(x: torch.Tensor) -> torch.Tensor:
    return x.T @ x


def output_error(before: torch.Tensor, after: torch.Tensor, x: torch.Tensor) -> float:
    change, total = (((part.double() @ x.double().T) ** 2).sum() for part in (before - after, before))
    return float(change / total)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("outputs", "inputs", "amount"), [(6, 12, 0.5), (3, 20, 0.7), (1, 9, 0.34), (8, 5, 0.1)]
)
def test_one_block_is_exact_surgery_column_by_column(seed, outputs, inputs, amount):
    weight, x = drawn(outputs, inputs, seed)
    count = pruned_count(amount, weight.numel())
    found, mask = sweep(
        weight, factor_of(hessian_of(x)), amount=amount, pattern="unstructured", scope="tensor"
    )
    expected, chosen = exact_obs(weight, x, None, [(0, inputs, count)])
    assert mask.numpy().tolist() == chosen.tolist()
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-3, atol=2e-4)


def test_several_blocks_are_exact_surgery_too_and_each_loses_its_quota():
    inputs = BLOCK + 44
    weight, x = drawn(3, inputs, tokens=600)
    found, mask = sweep(weight, factor_of(hessian_of(x)), amount=0.5, pattern="unstructured", scope=None)
    assert [int(part.sum()) for part in mask.split(BLOCK, dim=1)] == [3 * BLOCK // 2, 66]
    expected, _ = exact_obs(weight, x, mask.numpy(), [])
    np.testing.assert_allclose(found.numpy(), expected, rtol=5e-3, atol=2e-3)


@pytest.mark.parametrize("pattern", ["2:4", "1:3", "4:8", "3:20"])
def test_of_each_group_the_highest_stay_as_they_are_when_the_sweep_comes_to_it(pattern):
    kept, group = map(int, pattern.split(":"))
    weight, x = drawn(4, 3 * group, tokens=400)
    found, mask = sweep(
        weight, factor_of(hessian_of(x)), amount=1 - kept / group, pattern=pattern, scope=None
    )
    assert (mask.reshape(-1, group).sum(1) == group - kept).all()
    assert int((found != 0).reshape(-1, group).sum(1).max()) == kept
    expected, chosen = np.zeros(0), np.zeros(weight.shape, bool)
    for start in range(0, weight.shape[1], group):  # row by row, since each row chooses for itself
        left, _ = exact_obs(weight, x, chosen.copy(), [])
        h = hessian_of(x).double().numpy()
        h += DAMPINGS[0] * np.diag(h).mean() * np.eye(len(h))
        diagonal = np.array([np.linalg.inv(h[j:, j:])[0, 0] for j in range(start, start + group)])
        scores = left[:, start : start + group] ** 2 / diagonal
        for row in range(len(scores)):
            order = sorted(range(group), key=lambda at: (scores[row, at], -at))
            chosen[row, [start + at for at in order[: group - kept]]] = True
        expected = left
    assert mask.numpy().tolist() == chosen.tolist()
    expected, _ = exact_obs(weight, x, chosen, [])
    np.testing.assert_allclose(found.numpy(), expected, rtol=5e-3, atol=2e-3)


@pytest.mark.parametrize("scope", ["tensor", "row"])
@pytest.mark.parametrize("amount", [0.0, 0.1, 1 / 3, 0.5, 0.77, 1.0])
def test_counts_are_exact_in_every_scope(scope, amount):
    weight, x = drawn(7, 301)
    _, mask = sweep(weight, factor_of(hessian_of(x)), amount=amount, pattern="unstructured", scope=scope)
    if scope == "row":
        assert mask.sum(1).tolist() == [pruned_count(amount, 301)] * 7
    assert scope == "row" or int(mask.sum()) == pruned_count(amount, mask.numel())


def test_nothing_pruned_changes_nothing_and_everything_pruned_leaves_nothing():
    weight, x = drawn(4, 150)
    layer, hessian = layer_of(weight), hessian_of(x)
    factor = factor_of(hessian)
    same = reconstruct(layer, weight, hessian, factor, amount=0.0, pattern="unstructured", scope="tensor")
    none = reconstruct(layer, weight, hessian, factor, amount=1.0, pattern="unstructured", scope="tensor")
    assert torch.equal(same.weight, weight)
    assert (same.pruned, same.error) == (0, 0.0)
    assert not none.weight.any()
    assert none.pruned == 600
    assert none.error == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("pattern", "scope"), [("unstructured", "tensor"), ("unstructured", "row"), ("2:4", None)]
)
@pytest.mark.parametrize("seed", range(4))
def test_outputs_change_less_than_with_magnitude_or_wanda_at_the_same_count(seed, pattern, scope):
    weight, x = drawn(32, 256, seed, tokens=2000)
    hessian = hessian_of(x)
    swept = reconstruct(
        layer_of(weight), weight, hessian, factor_of(hessian), amount=0.5, pattern=pattern, scope=scope
    )
    norms = x.square().sum(0).sqrt()
    for score in (weight.abs(), weight.abs() * norms):
        mask = mask_of(score, 0.5, pattern, scope)
        assert int(mask.sum()) == swept.pruned
        assert swept.error < 0.8 * output_error(weight, weight.masked_fill(mask, 0.0), x)
    assert swept.error == pytest.approx(output_error(weight, swept.weight, x), rel=1e-3)


def test_weights_that_see_dead_inputs_go_first_and_their_share_is_not_taken_twice():
    weight, x = drawn(6, 200)
    dead = [0, 3, 130, 199]
    x[:, dead] = 0
    found, mask = sweep(weight, factor_of(hessian_of(x)), amount=0.25, pattern="unstructured", scope="tensor")
    assert mask[:, dead].all()
    assert int(mask.sum()) == 300
    live = [column for column in range(200) if column not in dead]
    alone, _ = sweep(
        weight[:, live], factor_of(hessian_of(x[:, live])), amount=(300 - 24) / (6 * 196),
        pattern="unstructured", scope="tensor",
    )  # fmt: skip
    assert int((alone == 0).sum()) == int((found[:, live] == 0).sum())


def test_more_dead_inputs_than_are_to_go_leave_the_live_ones_alone():
    weight, x = drawn(4, 160)
    x[:, :100] = 0
    found, mask = sweep(weight, factor_of(hessian_of(x)), amount=0.5, pattern="unstructured", scope="row")
    assert mask.sum(1).tolist() == [80] * 4
    assert not mask[:, 100:].any()
    assert torch.equal(found[~mask], weight[~mask])


def test_without_any_live_input_the_lower_indices_stay():
    weight = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    factor = factor_of(torch.zeros(8, 8))
    _, mask = sweep(weight, factor, amount=0.5, pattern="unstructured", scope="row")
    assert mask.tolist() == [[False] * 4 + [True] * 4] * 2
    done = reconstruct(
        layer_of(weight), weight, torch.zeros(8, 8), factor, amount=0.5, pattern="2:4", scope=None
    )
    assert (done.error, done.pruned) == (0.0, 8)
    assert torch.equal(done.weight, weight.masked_fill(torch.tensor([[0, 0, 1, 1] * 2] * 2).bool(), 0.0))


def test_a_singular_hessian_is_damped_until_it_is_not():
    weight, x = drawn(5, 64, tokens=3)
    hessian = hessian_of(x)
    assert int(torch.linalg.matrix_rank(hessian)) == 3
    factor = factor_of(hessian)
    assert factor.damping == DAMPINGS[0]
    swept = reconstruct(
        layer_of(weight), weight, hessian, factor, amount=0.5, pattern="unstructured", scope="row"
    )
    assert swept.error < 0.05, "half of 64 weights can nearly give three examples' outputs"


def test_a_hessian_that_is_slightly_indefinite_takes_more_damping():
    eigenvalues = torch.ones(10)
    eigenvalues[0] = -0.05
    basis = torch.linalg.qr(torch.randn(10, 10, generator=torch.Generator().manual_seed(1)))[0]
    assert factor_of(basis @ eigenvalues.diag() @ basis.T).damping == DAMPINGS[1]


def test_a_hessian_that_no_damping_helps_is_refused():
    hessian = torch.tensor([[1.0, 50.0], [50.0, 1.0]])
    with pytest.raises(NotPositive, match="not even with 1 times"):
        factor_of(hessian)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_stays_and_the_error_is_that_of_what_is_stored(dtype):
    weight, x = drawn(16, 64)
    weight, hessian = weight.to(dtype), hessian_of(x)
    swept = reconstruct(
        layer_of(weight),
        weight,
        hessian,
        factor_of(hessian),
        amount=0.3,
        pattern="unstructured",
        scope="tensor",
    )
    assert swept.weight.dtype == dtype
    assert swept.error == pytest.approx(output_error(weight.float(), swept.weight.float(), x), rel=2e-3)


def test_a_weight_stored_the_other_way_round_becomes_the_same():
    weight, x = drawn(16, 64)
    hessian = hessian_of(x)
    factor = factor_of(hessian)
    amounts = {"amount": 0.5, "pattern": "2:4", "scope": None}
    straight = reconstruct(layer_of(weight), weight, hessian, factor, **amounts)
    turned = weight.T.contiguous()
    around = reconstruct(layer_of(turned, transposed=True), turned, hessian, factor, **amounts)
    assert torch.equal(around.weight, straight.weight.T)
    assert around.weight.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4:8", "1:3"])
def test_the_weight_alone_is_that_of_which_the_error_is_told(dtype, pattern):
    weight, x = drawn(8, 300)
    weight, hessian = weight.to(dtype), hessian_of(x)
    how = {"amount": 0.5 if pattern != "1:3" else 2 / 3, "pattern": pattern, "scope": None}
    factor = factor_of(hessian)
    told = reconstruct(layer_of(weight), weight, hessian, factor, **how)
    alone = reconstructed_weight(layer_of(weight), weight, factor, **how)
    assert torch.equal(alone, told.weight)
    assert (alone.dtype, alone.shape) == (dtype, weight.shape)


@pytest.mark.parametrize("size", [1, 2, 127, 128, 129, 300])
def test_the_factor_times_its_transpose_is_the_damped_hessian(size):
    hessian = hessian_of(drawn(1, size, tokens=2 * size)[1])
    before = hessian.clone()
    factor = factor_of(hessian)
    upper = factor.unit.double() * factor.curvature.double().sqrt()
    assert torch.equal(hessian, before)
    assert not upper.tril(-1).any()
    assert torch.equal(factor.unit.diagonal(), torch.ones(size))
    damped = hessian.double() + factor.added.double().diag()
    torch.testing.assert_close(
        upper @ upper.t(), damped, rtol=1e-5, atol=1e-5 * float(damped.diagonal().mean())
    )


@pytest.mark.parametrize("rows", [1, 16])
def test_the_given_weight_is_not_written_to_and_the_same_inputs_give_the_same_bits(rows):
    weight, x = drawn(rows, 300)
    hessian, before = hessian_of(x), weight.clone()
    one, two = (
        reconstruct(
            layer_of(weight),
            weight,
            hessian,
            factor_of(hessian),
            amount=0.5,
            pattern="unstructured",
            scope="row",
        )
        for _ in range(2)
    )
    assert torch.equal(weight, before)
    assert torch.equal(one.weight, two.weight)


def test_what_does_not_fit_the_dtype_is_refused():
    weight = torch.tensor([[60000.0, 65000.0]], dtype=torch.float16)
    hessian = torch.tensor([[1.0, 0.99], [0.99, 1.0]])
    how = {"amount": 0.5, "pattern": "unstructured", "scope": "row"}
    with pytest.raises(NotANumber):
        reconstruct(layer_of(weight), weight, hessian, factor_of(hessian), **how)
    with pytest.raises(NotANumber):
        reconstructed_weight(layer_of(weight), weight, factor_of(hessian), **how)


@pytest.mark.parametrize(
    ("dead", "live", "wanted", "quotas"),
    [
        ([0, 0], [10, 10], 10, [5, 5]),
        ([0, 0, 0], [1, 1, 1], 1, [0, 1, 0]),
        ([4, 0], [6, 10], 4, [4, 0]),
        ([4, 0], [6, 10], 12, [7, 5]),
        ([4, 4], [6, 6], 4, [2, 2]),
        ([0], [0], 0, [0]),
        ([2, 3], [8, 7], 20, [10, 10]),
    ],
)
def test_quotas_take_the_dead_first_and_spread_the_rest(dead, live, wanted, quotas):
    assert block_quotas(dead, live, wanted) == quotas


@pytest.mark.parametrize("size", [1, 2, 127, 129, 300, 513])
def test_the_factor_is_that_of_the_damped_hessian(size):
    x = torch.randn(2 * size + 4, size, generator=torch.Generator().manual_seed(size))
    hessian = x.t() @ x
    factor = factor_of(hessian)
    damped = hessian.double()
    damped.diagonal().add_(DAMPINGS[0] * float(damped.diagonal().mean()))
    assert torch.equal(factor.unit, factor.unit.triu())
    assert bool((factor.unit.diagonal() == 1).all())
    upper = factor.unit.double() * factor.curvature.double().sqrt()
    torch.testing.assert_close(upper @ upper.t(), damped, atol=1e-5 * float(damped.max()), rtol=0)

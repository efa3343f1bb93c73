"""Where the code that Wanda and SparseGPT came with does something else, and what: its few lines are written here after it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from safetensors.torch import load_file

from tasks import pruning
from tasks.contract import Dataset, Work
from tasks.examples.data import read
from tasks.examples.fitting import fit
from tasks.loading.models import Layer, load_afresh
from tasks.masks.patterns import mask_of, pruned_count
from tasks.masks.reconstruct import BLOCK, factor_of, reconstruct, sweep


def their_threshold(scores: torch.Tensor, amount: float) -> torch.Tensor:
    """SparseGPT's mask of a block, and the mask of Wanda's magnitude baseline."""
    limit = torch.sort(scores.flatten())[0][int(scores.numel() * amount)]
    return scores <= limit


def their_rows(scores: torch.Tensor, amount: float) -> torch.Tensor:
    """Wanda's mask."""
    order = torch.sort(scores, dim=-1, stable=True)[1]
    mask = torch.zeros_like(scores, dtype=torch.bool)
    return mask.scatter_(1, order[:, : int(scores.shape[1] * amount)], True)


def their_groups(scores: torch.Tensor, removed: int, group: int) -> torch.Tensor:
    """The N:M mask of Wanda, which removes `removed` of each `group`; SparseGPT's is the same within its sweep."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for start in range(0, scores.shape[1], group):
        part = scores[:, start : start + group]
        mask.scatter_(1, start + torch.topk(part, removed, dim=1, largest=False)[1], True)
    return mask


def their_walk(
    module: torch.nn.Module, blocks: Sequence[torch.nn.Module], texts: Sequence[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Masks of half of each row by Wanda, block after block: each is calibrated once those before it are pruned."""
    names = {part: name for name, part in module.named_modules()}
    masks = {}
    for block in blocks:
        layers = [part for part in block.modules() if isinstance(part, torch.nn.Linear)]
        seen: dict[torch.nn.Module, list[torch.Tensor]] = {part: [] for part in layers}
        handles = [
            part.register_forward_pre_hook(
                lambda part, given, to=seen: to[part].append(given[0].flatten(0, -2))
            )
            for part in layers
        ]
        for text in texts:
            module(input_ids=text)
        for handle in handles:
            handle.remove()
        for part in layers:
            mask = their_rows(part.weight.abs() * torch.cat(seen[part]).norm(dim=0), 0.5)
            part.weight.data[mask] = 0
            masks[f"{names[part]}.weight"] = mask
    return masks


def test_their_threshold_prunes_one_more_and_ours_what_was_asked():
    scores = torch.randperm(64, generator=torch.Generator().manual_seed(0)).float().reshape(8, 8)
    assert int(their_threshold(scores, 0.5).sum()) == 33
    ours = mask_of(scores, 0.5, "unstructured", "tensor")
    assert int(ours.sum()) == 32
    assert int((their_threshold(scores, 0.5) & ~ours).sum()) == 1


def test_their_threshold_takes_all_that_are_equal_to_it():
    scores = torch.ones(8, 8)
    assert bool(their_threshold(scores, 0.1).all())
    ours = mask_of(scores, 0.1, "unstructured", "tensor").flatten()
    assert ours.nonzero().flatten().tolist() == list(range(64 - pruned_count(0.1, 64), 64))


def test_of_equal_scores_of_a_row_wanda_prunes_the_first_and_we_the_last():
    scores = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    assert their_rows(scores, 0.5).tolist() == [[True, True, False, False]]
    assert mask_of(scores, 0.5, "unstructured", "row").tolist() == [[False, False, True, True]]


@pytest.mark.parametrize(("amount", "inputs", "theirs", "ours"), [(0.35, 10, 3, 4), (0.29, 100, 28, 29)])
def test_wanda_cuts_off_a_fraction_of_a_weight_and_we_round(amount, inputs, theirs, ours):
    scores = torch.randn(5, inputs, generator=torch.Generator().manual_seed(1)).abs()
    assert their_rows(scores, amount).sum(1).tolist() == [theirs] * 5
    assert mask_of(scores, amount, "unstructured", "row").sum(1).tolist() == [ours] * 5


@pytest.mark.parametrize("amount", [0.25, 0.5, 0.7])
def test_where_no_scores_are_equal_and_no_fraction_is_left_the_rows_are_wandas(amount):
    scores = torch.randn(40, 200, generator=torch.Generator().manual_seed(2)).abs()
    assert torch.equal(
        mask_of(scores, amount, "unstructured", "row"), their_rows(scores, round(amount, 2) + 1e-12)
    )


def a_case(dead: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight of two blocks, and a Hessian whose first inputs were always zero."""
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(800, 2 * BLOCK, generator=draw)
    x[:, :dead] = 0.0
    return torch.randn(6, 2 * BLOCK, generator=draw), x.T @ x


def test_weights_of_dead_inputs_go_in_addition_there_and_are_counted_here():
    weight, hessian = a_case(dead=10)
    _, mask = sweep(weight, factor_of(hessian), amount=0.25, pattern="unstructured", scope="tensor")
    assert bool(mask[:, :10].all())
    assert int(mask.sum()) == pruned_count(0.25, weight.numel())
    amount_where_dead_weights_come_on_top = 0.03
    _, few = sweep(
        weight,
        factor_of(hessian),
        amount=amount_where_dead_weights_come_on_top,
        pattern="unstructured",
        scope="tensor",
    )
    assert int(few.sum()) == pruned_count(amount_where_dead_weights_come_on_top, weight.numel()) < 60


def test_blocks_lose_their_share_exactly_where_a_threshold_loses_one_more_each():
    weight, hessian = a_case(dead=0)
    _, mask = sweep(weight, factor_of(hessian), amount=0.5, pattern="unstructured", scope="tensor")
    assert [int(part.sum()) for part in mask.split(BLOCK, dim=1)] == [3 * BLOCK] * 2


def test_the_error_is_that_under_the_hessian_as_it_is_and_not_half_of_it_damped():
    weight, hessian = a_case(dead=0)
    size = weight.shape[1]
    layer = Layer(
        name="l",
        weight="l.weight",
        shape=tuple(weight.shape),
        parameters=weight.numel(),
        outputs=6,
        inputs=size,
    )
    swept = reconstruct(layer, weight, hessian, factor_of(hessian), amount=0.5, pattern="2:4", scope=None)
    change, h = (swept.weight - weight).double(), hessian.double()
    damped = h + 0.01 * h.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    energy, total = ((part @ h * part).sum() for part in (change, weight.double()))
    assert swept.error == pytest.approx(float(energy / total), rel=1e-4)
    theirs = float((change @ damped * change).sum()) / 2
    assert theirs != pytest.approx(float(energy), rel=0.1)


@pytest.mark.parametrize(("pattern", "removed", "group"), [("2:4", 2, 4), ("1:4", 3, 4), ("4:8", 4, 8)])
def test_without_equal_scores_groups_lose_what_topk_says(pattern, removed, group):
    scores = torch.randn(20, 64, generator=torch.Generator().manual_seed(4)).abs()
    assert torch.equal(mask_of(scores, removed / group, pattern, None), their_groups(scores, removed, group))


def test_of_equal_scores_of_a_group_topk_takes_as_many_and_we_say_which():
    every = torch.tensor(list(itertools.product([1.0, 2.0, 3.0], repeat=4)))
    ours, theirs = mask_of(every, 0.5, "2:4", None), their_groups(every, 2, 4)
    for scores, mine, other in zip(every, ours, theirs, strict=True):
        assert sorted(scores[mine].tolist()) == sorted(scores[other].tolist())
        order = sorted(range(4), key=lambda at: (scores[at], -at))
        assert mine.nonzero().flatten().tolist() == sorted(order[:2])


@torch.no_grad()
def test_their_later_blocks_are_calibrated_behind_pruned_ones_and_ours_on_the_dense_model(
    tmp_path, tiny_model, tiny_data
):
    path = tiny_model(tmp_path / "model", config={"num_hidden_layers": 3})
    data = Dataset(path=tiny_data(tmp_path / "data")["text"], kind="text", split="calibration")
    out = tmp_path / "out"
    out.mkdir()
    params = {"criterion": "wanda", "pattern": "unstructured", "scope": "row", "skip": [], "amount": 0.5}
    pruning.run(Work(model=path, params=params, datasets={"calibration": data}, output=out))
    ours = {name: tensor == 0 for name, tensor in load_file(out / "model.safetensors").items()}

    walked = load_afresh(path)
    texts = [torch.as_tensor(item.content)[None] for item in fit(read(data), walked).items]
    blocks = list(walked.module.model.layers)
    theirs = their_walk(walked.module, blocks, texts)
    differing = [
        block
        for block in range(3)
        if any(
            not torch.equal(ours[name], mask) for name, mask in theirs.items() if f"layers.{block}." in name
        )
    ]
    assert differing == [1, 2]
    for block in range(3):  # each in a model that is dense but for it
        alone = load_afresh(path).module
        masks = their_walk(alone, [alone.model.layers[block]], texts)
        assert all(torch.equal(ours[name], mask) for name, mask in masks.items())

"""Coupled groups by permutation, against networks whose couplings are known by construction."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tasks.contract import BadInput
from tasks.cutting.axes import Axis, Dim
from tasks.cutting.symmetry import Group, Slot, groups_of, permuted
from tasks.statistics.holding import holding

WIDE = 6


class Residual(nn.Module):
    """A stream of WIDE channels that two branches add to; each branch has hidden units of its own."""

    def __init__(self, hidden=WIDE):
        super().__init__()
        self.enter = nn.Linear(4, WIDE)
        self.a1, self.a2 = nn.Linear(WIDE, hidden), nn.Linear(hidden, WIDE)
        self.b1, self.b2 = nn.Linear(WIDE, hidden), nn.Linear(hidden, WIDE)
        self.leave = nn.Linear(WIDE, 3)

    def forward(self, x):
        x = self.enter(x)
        x = x + self.a2(torch.relu(self.a1(x)))
        x = x + self.b2(torch.relu(self.b1(x)))
        return self.leave(torch.relu(x))


class Ordered(nn.Module):
    """What it computes depends on the order of its hidden units."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, WIDE), nn.Linear(WIDE, 3)

    def forward(self, x):
        return self.second(self.first(x).cumsum(-1))


class Fused(nn.Module):
    """Gate and value in one weight, side by side or one after the other of each unit."""

    def __init__(self, interleaved):
        super().__init__()
        self.both, self.down = nn.Linear(4, 2 * WIDE), nn.Linear(WIDE, 3)
        self.interleaved = interleaved

    def forward(self, x):
        if self.interleaved:
            gate, value = self.both(x).unflatten(-1, (WIDE, 2)).unbind(-1)
        else:
            gate, value = self.both(x).chunk(2, -1)
        return self.down(torch.sigmoid(gate) * value)


class Mixture(nn.Module):
    """Experts in weights of three dimensions, all of them in use."""

    def __init__(self, experts=3):
        super().__init__()
        self.router = nn.Linear(4, experts)
        self.up = nn.Parameter(torch.randn(experts, 4, WIDE))
        self.down = nn.Parameter(torch.randn(experts, WIDE, 3))

    def forward(self, x):
        hidden = torch.relu(torch.einsum("bi,eih->beh", x, self.up))
        return torch.einsum("beh,eho,be->bo", hidden, self.down, self.router(x).softmax(-1))


def dims(module, *named):
    state = module.state_dict()
    return tuple(Dim(tensor=name, index=index, size=state[name].shape[index]) for name, index in named)


def axis(module, *named, count=WIDE, kind="width"):
    return Axis(
        kind=kind, name="size", count=count, per_unit={("size",): 1}, fixed={}, dims=dims(module, *named)
    )


def found(module, made, seed=0):
    """Which dimensions are together, as sets of names."""
    module.eval().requires_grad_(False)
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))

    def answer():
        with torch.inference_mode():
            return module(inputs).double()

    return groups_of(module, made, answer, seed)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


STREAM = {("enter.weight", 0), ("enter.bias", 0), ("a2.weight", 0), ("a2.bias", 0), ("b2.weight", 0), ("b2.bias", 0),
          ("a1.weight", 1), ("b1.weight", 1), ("leave.weight", 1)}  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_hidden_units_of_branches_are_told_from_the_stream_between_them(seed):
    module = Residual()
    order = [("enter.weight", 0), ("enter.bias", 0)]
    for branch in "ab":
        order += [(f"{branch}1.weight", 1), (f"{branch}1.weight", 0), (f"{branch}1.bias", 0)]
        order += [(f"{branch}2.weight", 1), (f"{branch}2.weight", 0), (f"{branch}2.bias", 0)]
    groups = found(module, axis(module, *order, ("leave.weight", 1)), seed)
    sets = [{(slot.dim.tensor, slot.dim.index) for slot in group.slots} for group in groups]
    own = [{(f"{b}1.weight", 0), (f"{b}1.bias", 0), (f"{b}2.weight", 1)} for b in "ab"]
    assert sorted(map(sorted, sets)) == sorted(map(sorted, [*own, STREAM]))
    assert {group.units for group in groups} == {WIDE}


def test_equal_entries_do_not_make_a_weight_look_as_if_it_did_not_belong():
    """A bias of zeros is the same in any order; only with noise on it can it be seen to belong."""
    module = Residual()
    nn.init.zeros_(module.a1.bias)
    named = [("a1.weight", 0), ("a1.bias", 0), ("a2.weight", 1)]
    (group,) = found(module, axis(module, *named))
    assert [slot.dim.tensor for slot in group.slots] == ["a1.weight", "a1.bias", "a2.weight"]
    assert not module.a1.bias.any()


def test_units_whose_order_matters_are_refused():
    module = Ordered()
    with pytest.raises(BadInput, match="depends on the order"):
        found(module, axis(module, ("first.weight", 0), ("first.bias", 0), ("second.weight", 1)))


def test_a_dimension_that_is_forgotten_is_noticed():
    """The bias of the layer that writes is left out: no group can be made of the rest."""
    module = Residual()
    with pytest.raises(BadInput, match="depends on the order"):
        found(module, axis(module, ("a1.weight", 0), ("a2.weight", 1)))


def test_a_model_whose_answers_say_nothing_of_the_units_is_refused_for_that():
    module = Residual()
    nn.init.zeros_(module.leave.weight)
    with pytest.raises(BadInput, match="its answers do not depend on what"):
        found(module, axis(module, ("a1.weight", 0), ("a1.bias", 0), ("a2.weight", 1)))


@pytest.mark.parametrize(("interleaved", "stretches"), [(False, (1, 1)), (True, (1,))])
def test_how_a_fused_weight_is_laid_out_is_found_out(interleaved, stretches):
    module = Fused(interleaved)
    (group,) = found(module, axis(module, ("both.weight", 0), ("both.bias", 0), ("down.weight", 1)))
    assert group.units == WIDE
    assert group.slots[0].stretches == stretches
    kept = torch.tensor([0, 2, 5])
    rows = group.members(group.slots[0], kept).tolist()
    assert rows == ([0, 1, 4, 5, 10, 11] if interleaved else [0, 2, 5, 6, 8, 11])


def test_experts_choose_their_units_apart():
    module = Mixture()
    (group,) = found(module, axis(module, ("up", 2), ("down", 1)))
    assert (group.units, group.parts) == (WIDE, 3)


def test_experts_go_with_their_rows_of_the_router_as_wholes():
    module = Mixture()
    named = [("router.weight", 0), ("router.bias", 0), ("up", 0), ("down", 0)]
    (group,) = found(module, axis(module, *named, count=3, kind="experts"))
    assert (group.units, group.parts) == (3, 1)


def test_stretches_of_unequal_length_keep_each_units_share():
    """Two heads of four rows of queries, two of keys, two of values: as fused attention with shared heads stores them."""
    dim = Dim(tensor="qkv", index=0, size=16)
    made = Axis(kind="heads", name="h", count=2, per_unit={("h",): 2, ("k",): 1}, fixed={}, dims=(dim,))
    slot = Slot(dim=dim, stretches=(2, 1, 1))
    group = Group(name="", axis=made, units=2, slots=(slot,))
    assert group.members(slot, torch.tensor([1])).tolist() == [4, 5, 6, 7, 10, 11, 14, 15]


def test_parts_are_permuted_each_in_its_own_order():
    weight = torch.arange(12.0).view(2, 3, 2)
    dim = Dim(tensor="w", index=1, size=3)
    made = Axis(kind="width", name="w", count=3, per_unit={("w",): 1}, fixed={}, dims=(dim,))
    group = Group(name="", axis=made, units=3, slots=(Slot(dim=dim),), parts=2)
    result = permuted({"w": weight}, group, group.slots, [torch.tensor([2, 0]), torch.tensor([1, 1])])["w"]
    assert torch.equal(result, torch.stack([weight[0][[2, 0]], weight[1][[1, 1]]]))


def test_what_is_held_comes_back_also_after_an_error():
    module = nn.Linear(2, 2)
    before = module.weight.data

    def fail():
        with holding(module, {"weight": torch.zeros(2, 2)}):
            assert not module.weight.any()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert module.weight.data.data_ptr() == before.data_ptr()


def test_what_is_held_is_held_by_all_that_share_it():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    with holding(module, {"0.weight": torch.full((2, 2), 7.0)}):
        assert float(module[1].weight.detach().sum()) == 28

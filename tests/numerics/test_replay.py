"""Effects. Skipping the blocks before a change, on small modules made to defeat it: equal results or no skipping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cases.model_files import NO_CONFIG
from torch import nn

from tasks.evaluation import score
from tasks.examples.batches import Batch, batches
from tasks.examples.fitting import Fitted, Item
from tasks.loading.models import Model, prunable_layers, rows_of
from tasks.replaying import replay
from tasks.replaying.chains import chain_of, survey
from tasks.replaying.replay import Replay
from tasks.replaying.trials import part_of, replaced

WIDTH = 6


def model_of(module: nn.Module) -> Model:
    config = SimpleNamespace(num_labels=WIDTH)
    unused: Any = None
    return Model(
        built_from=NO_CONFIG,
        module=module.eval(),
        family="feature_classifier",
        config=config,
        path=Path(),
        checkpoint=unused,
        naming=unused,
    )


def batches_for(model: Model, count: int = 5, size: int = 2) -> list[Batch]:
    draw = np.random.default_rng(0)
    items = [
        Item(number=n, slices={}, content=draw.normal(size=WIDTH).astype(np.float32), label=n % WIDTH)
        for n in range(count)
    ]
    return list(batches(Fitted(items=tuple(items)), model, size))


class Block(nn.Module):
    """One linear layer; counts how often it really runs."""

    def __init__(self, change: Callable[[torch.Tensor], Any] = lambda hidden: hidden) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.change = change
        self.kind = "plain"
        self.runs = 0

    def forward(self, hidden: Any) -> Any:
        self.runs += 1
        given = (
            hidden["hidden"]
            if isinstance(hidden, dict)
            else hidden[0]
            if isinstance(hidden, tuple)
            else hidden
        )
        return self.change(self.linear(given).tanh())


class Net(nn.Module):
    """Blocks in a row, with `walk` saying how a pass goes through them."""

    def __init__(
        self, blocks: Sequence[nn.Module], walk: Callable[[Any, torch.Tensor], torch.Tensor]
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(blocks)
        self.tail = nn.Linear(WIDTH, WIDTH)
        self.walk = walk

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.walk(self, inputs)


def straight(net: Any, inputs: torch.Tensor) -> torch.Tensor:
    hidden = net.head(inputs)
    for block in net.blocks:
        hidden = block(hidden)
    result: torch.Tensor = net.tail(hidden)
    return result


def all_trials(model: Model, members: Sequence[Batch]) -> tuple[Replay, int]:
    """Prunes half of every layer in turn, checks each against a full run, and gives the replay and its skips."""
    chain = chain_of(model, members[0])
    dense, first_uses = survey(model, chain, members)
    layers = prunable_layers(model.module)
    stages = {layer.name: first_uses.get(id(model.module.get_parameter(layer.weight)), 0) for layer in layers}
    found = Replay(
        model=model, batches=members, dense=dense, chain=chain, stages=sorted(set(stages.values()))
    )
    skipped = 0
    for layer in sorted(layers, key=lambda layer: stages[layer.name]):
        found.move_to(stages[layer.name])
        skipped += 0 if found.problem else found.stage
        value = model.module.get_parameter(layer.weight).detach().clone()
        rows_of(layer, value)[::2] = 0
        with replaced(model.module, layer, value):
            for index, batch in enumerate(members):
                assert torch.equal(found.score(index).losses, score(model, batch).losses), layer.name
    return found, skipped


def test_a_plain_row_of_blocks_is_skipped_up_to_each_layer():
    net = Net([Block() for _ in range(4)], straight)
    found, skipped = all_trials(model_of(net), batches_for(model_of(net)))
    assert found.chain == tuple(net.blocks)
    assert found.problem == ""
    assert skipped == 0 + 0 + 1 + 2 + 3 + 4  # the head, four blocks, the tail


def test_blocks_before_the_stage_do_not_run():
    net = Net([Block() for _ in range(4)], straight)
    model = model_of(net)
    members = batches_for(model)
    chain = chain_of(model, members[0])
    dense, _ = survey(model, chain, members)
    found = Replay(model=model, batches=members, dense=dense, chain=chain, stages=[2])
    found.move_to(2)
    for block in chain:
        block.runs = 0
    assert torch.equal(found.score(0).losses, dense[0].losses)
    assert [block.runs for block in chain] == [0, 0, 1, 1]


def test_stages_in_between_may_be_left_out():
    net = Net([Block() for _ in range(5)], straight)
    model = model_of(net)
    members = batches_for(model)
    chain = chain_of(model, members[0])
    dense, _ = survey(model, chain, members)
    found = Replay(model=model, batches=members, dense=dense, chain=chain, stages=[1, 4, 5])
    for stage in (1, 4, 5):
        found.move_to(stage)
        assert (found.stage, found.problem) == (stage, "")
        assert all(torch.equal(found.score(i).losses, dense[i].losses) for i in range(len(members)))


@pytest.mark.parametrize(
    "change",
    [
        lambda hidden: (hidden,),
        lambda hidden: (hidden, None, [hidden * 2], {"flag": True, "name": "x"}),
        lambda hidden: {"hidden": hidden},
    ],
)
def test_blocks_may_give_nested_values(change):
    def walk(net: Any, inputs: torch.Tensor) -> torch.Tensor:
        hidden: Any = net.head(inputs)
        for block in net.blocks:
            hidden = block(hidden)
        result: torch.Tensor = net.tail(hidden["hidden"] if isinstance(hidden, dict) else hidden[0])
        return result

    net = Net([Block(change) for _ in range(3)], walk)
    found, skipped = all_trials(model_of(net), batches_for(model_of(net)))
    assert found.problem == ""
    assert skipped == 0 + 0 + 1 + 2 + 3


def test_an_output_that_is_written_to_afterwards_is_remembered_as_it_was():
    def walk(net: Any, inputs: torch.Tensor) -> torch.Tensor:
        hidden = net.head(inputs)
        for block in net.blocks:
            hidden = block(hidden)
            hidden += 1
            hidden.mul_(0.5)
        result: torch.Tensor = net.tail(hidden)
        return result

    net = Net([Block() for _ in range(3)], walk)
    found, skipped = all_trials(model_of(net), batches_for(model_of(net)))
    assert found.problem == ""
    assert skipped > 0


def test_a_loop_that_reads_attributes_of_its_blocks_goes_on_working():
    def walk(net: Any, inputs: torch.Tensor) -> torch.Tensor:
        hidden = net.head(inputs)
        for block in net.blocks[:3]:
            hidden = block(hidden) if block.kind == "plain" and block.linear.weight.dim() == 2 else 1 / 0
        result: torch.Tensor = net.tail(hidden)
        return result

    net = Net([Block() for _ in range(3)], walk)
    found, skipped = all_trials(model_of(net), batches_for(model_of(net)))
    assert (found.problem, skipped) == ("", 6)


def test_a_way_around_the_blocks_is_noticed_and_nothing_is_skipped():
    def walk(net: Any, inputs: torch.Tensor) -> torch.Tensor:
        hidden = net.head(inputs)
        passed = []
        for block in net.blocks:
            hidden = block(hidden)
            passed.append(hidden)
        result: torch.Tensor = net.tail(hidden + passed[0])
        return result

    net = Net([Block() for _ in range(4)], walk)
    found, _ = all_trials(model_of(net), batches_for(model_of(net)))
    assert "gives other losses" in found.problem


def test_a_side_effect_of_a_block_on_a_later_one_is_noticed():
    memory: list[torch.Tensor] = []

    def remember(hidden: torch.Tensor) -> torch.Tensor:
        memory.append(hidden)
        return hidden + memory[-2] if len(memory) > 1 else hidden

    def walk(net: Any, inputs: torch.Tensor) -> torch.Tensor:
        memory.clear()
        return straight(net, inputs)

    net = Net([Block(remember) for _ in range(4)], walk)
    found, _ = all_trials(model_of(net), batches_for(model_of(net)))
    assert found.problem


def test_an_output_that_cannot_be_copied_stops_the_skipping():
    def walk(net: Any, inputs: torch.Tensor) -> torch.Tensor:
        hidden = net.head(inputs)
        for block in net.blocks:
            hidden = block(hidden).value
        result: torch.Tensor = net.tail(hidden)
        return result

    net = Net([Block(lambda hidden: SimpleNamespace(value=hidden)) for _ in range(3)], walk)
    found, skipped = all_trials(model_of(net), batches_for(model_of(net)))
    assert "a block's output holds a SimpleNamespace" in found.problem
    assert skipped == 0


def test_a_model_that_fails_when_blocks_are_skipped_is_run_in_full():
    def walk(net: Any, inputs: torch.Tensor) -> torch.Tensor:
        before = [block.runs for block in net.blocks]
        result = straight(net, inputs)
        if [block.runs - 1 for block in net.blocks] != before:
            raise KeyError("a block did not run")
        return result

    net = Net([Block() for _ in range(3)], walk)
    found, _ = all_trials(model_of(net), batches_for(model_of(net)))
    assert "KeyError" in found.problem


def test_a_weight_tied_to_an_earlier_block_counts_from_there():
    blocks = [Block() for _ in range(4)]
    blocks[3].linear.weight = blocks[1].linear.weight
    net = Net(blocks, straight)
    model = model_of(net)
    members = batches_for(model)
    _, first_uses = survey(model, chain_of(model, members[0]), members)
    assert first_uses[id(blocks[3].linear.weight)] == 1
    assert all_trials(model, members)[0].problem == ""


def test_a_weight_read_without_its_module_counts_from_there():
    def walk(net: Any, inputs: torch.Tensor) -> torch.Tensor:
        return straight(net, inputs @ net.blocks[2].linear.weight.t())

    net = Net([Block() for _ in range(4)], walk)
    model = model_of(net)
    members = batches_for(model)
    _, first_uses = survey(model, chain_of(model, members[0]), members)
    assert first_uses[id(net.blocks[2].linear.weight)] == 0
    assert first_uses[id(net.blocks[3].linear.weight)] == 3
    assert all_trials(model, members)[0].problem == ""


def test_a_weight_that_only_some_batch_uses_early_counts_from_there():
    def walk(net: Any, inputs: torch.Tensor) -> torch.Tensor:
        return straight(net, net.tail(inputs) if float(inputs[0, 0]) > 0.5 else inputs)

    net = Net([Block() for _ in range(3)], walk)
    model = model_of(net)
    members = batches_for(model, count=12)
    early = [float(batch.inputs["inputs"][0, 0]) > 0.5 for batch in members]
    assert any(early)
    assert not all(early)
    _, first_uses = survey(model, chain_of(model, members[0]), members)
    assert first_uses[id(net.tail.weight)] == 0
    assert all_trials(model, members)[0].problem == ""


def test_a_weight_that_is_never_used_has_no_stage():
    net = Net([Block()], straight)
    net.spare = nn.Linear(WIDTH, WIDTH)
    model = model_of(net)
    members = batches_for(model)
    _, first_uses = survey(model, chain_of(model, members[0]), members)
    assert id(net.spare.weight) not in first_uses


def test_blocks_called_twice_or_out_of_order_are_no_chain():
    def twice(net: Any, inputs: torch.Tensor) -> torch.Tensor:
        return straight(net, straight(net, inputs))

    def backwards(net: Any, inputs: torch.Tensor) -> torch.Tensor:
        for block in reversed(net.blocks):
            inputs = block(inputs)
        return inputs

    for walk in (twice, backwards):
        net = Net([Block() for _ in range(3)], walk)
        model = model_of(net)
        assert chain_of(model, batches_for(model)[0]) == ()


def test_blocks_inside_blocks_are_found_where_nothing_surrounds_them():
    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(Block(), Block())

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.layers(hidden)
            return result

    stages = [Stage(), nn.Sequential(Block(), Block()), Block()]
    net = Net(stages, straight)
    model = model_of(net)
    members = batches_for(model)
    chain = chain_of(model, members[0])
    assert [type(block) for block in chain] == [Block] * 5
    assert all_trials(model, members)[0].problem == ""


def test_the_list_with_most_parameters_is_the_chain():
    net = Net([Block() for _ in range(3)], straight)
    net.head = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2)), nn.Tanh(), nn.Tanh())
    model = model_of(net)
    assert chain_of(model, batches_for(model)[0]) == tuple(net.blocks)


def test_outputs_beyond_the_memory_are_left_out_and_the_results_stay(monkeypatch):
    monkeypatch.setattr(replay, "MEMORY_BYTES", 2 * 100)  # two batches of 2 x 6 float32 in either half
    net = Net([Block() for _ in range(3)], straight)
    found, _ = all_trials(model_of(net), batches_for(model_of(net), count=9))
    assert found.problem == ""
    assert found.left_out == {2, 3, 4}
    monkeypatch.setattr(replay, "MEMORY_BYTES", 10)
    found, _ = all_trials(model_of(net), batches_for(model_of(net)))
    assert "do not fit into 10 bytes" in found.problem


def test_nothing_is_left_on_the_blocks():
    net = Net([Block() for _ in range(3)], straight)
    all_trials(model_of(net), batches_for(model_of(net)))
    for part in net.modules():
        assert "forward" not in vars(part)
        assert not part._forward_hooks
        assert not part._forward_pre_hooks


def test_a_forward_of_a_block_s_own_is_put_back():
    net = Net([Block() for _ in range(3)], straight)
    original = net.blocks[0].forward
    own = lambda hidden: original(hidden)  # noqa: E731
    net.blocks[0].forward = own
    all_trials(model_of(net), batches_for(model_of(net)))
    assert vars(net.blocks[0])["forward"] is own


# --- parts of a model


def layers_of(*sizes: int) -> list[Any]:
    return [SimpleNamespace(name=f"l{n}", parameters=size) for n, size in enumerate(sizes)]


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 20])
def test_every_layer_is_in_exactly_one_part_in_model_order(parts):
    layers = layers_of(5, 1, 0, 100, 3, 3, 3, 40, 1)
    pieces = [part_of(layers, part, parts) for part in range(parts)]
    assert [layer for piece in pieces for layer in piece] == layers


def test_equal_layers_are_divided_equally():
    layers = layers_of(*[7] * 12)
    assert [len(part_of(layers, part, 4)) for part in range(4)] == [3, 3, 3, 3]
    assert [len(part_of(layers, part, 12)) for part in range(12)] == [1] * 12


def test_no_part_is_heavier_than_its_share_by_more_than_a_layer():
    draw = np.random.default_rng(0)
    for _ in range(50):
        layers = layers_of(*draw.integers(1, 1000, draw.integers(1, 40)).tolist())
        parts = int(draw.integers(1, 10))
        share = sum(layer.parameters for layer in layers) / parts
        heaviest = max(layer.parameters for layer in layers)
        for part in range(parts):
            weight = sum(layer.parameters for layer in part_of(layers, part, parts))
            assert abs(weight - share) <= heaviest


def test_there_are_no_parts_of_nothing():
    assert part_of([], 0, 3) == ()
    assert [len(part_of(layers_of(0, 0), part, 2)) for part in range(2)] == [2, 0]

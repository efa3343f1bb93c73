"""Which layers calibration says enough about: experts in modules of their own follow the rule of fused ones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cases.model_files import NO_CONFIG
from torch import nn

from tasks.contract import BadInput
from tasks.examples.fitting import Fitted, Item
from tasks.loading.experts import expert_layers, fused_weights
from tasks.loading.models import Layer, Model, Place, prunable_layers
from tasks.loading.naming import Assembly, Naming
from tasks.masks.criteria import CRITERIA
from tasks.masks.selection import Selection, without_unreached
from tasks.statistics.calibration import input_norms_over
from tasks.statistics.coverage import expert_tokens, fitting


class Routed(nn.Module):
    """Sends each vector to the expert that its first entry names; the last expert never gets one."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
        self.last = nn.Linear(4, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = torch.zeros_like(inputs)
        for number, expert in enumerate(self.experts):
            chosen = inputs[:, 0] == number
            hidden[chosen] = expert(inputs[chosen])
        return self.last(hidden)


def model_around(module: nn.Module, naming: Any = None) -> Model:
    unused: Any = None
    return Model(
        built_from=NO_CONFIG,
        module=module.eval().requires_grad_(False),
        family="feature_classifier",
        config=SimpleNamespace(num_labels=2),
        path=Path(),
        checkpoint=unused,
        naming=naming,
    )


def vectors(*firsts: int) -> Fitted:
    return Fitted(
        items=tuple(
            Item(number=n, slices={}, content=np.array([first, 1, 2, 3], dtype=np.float32), label=0)
            for n, first in enumerate(firsts)
        )
    )


def test_experts_in_modules_are_counted_and_left_alone_like_fused_ones():
    model = model_around(Routed())
    layers = prunable_layers(model.module)
    found = input_norms_over(model, layers, vectors(0, 0, 0, 1, 1, 2))
    assert found.unreached == ("experts.3",)
    assert [found.tokens.get(layer.name, 0) for layer in layers] == [3, 2, 1, 0, 6]
    left = without_unreached(Selection(layers=layers, findings=()), found.tokens, 2)
    assert [layer.name for layer in left.layers] == ["experts.0", "experts.1", "last"]
    assert [(finding.subject, finding.message) for finding in left.findings] == [
        ("experts.2", "only 1 calibration tokens reach it, and min_tokens is 2"),
        ("experts.3", "no calibration example reaches it, so it has no scores"),
    ]


def test_nothing_left_is_refused_with_the_reason():
    layers = prunable_layers(Routed())
    with pytest.raises(BadInput, match=r"of each of the 5 layers holds: only 1 calibration tokens"):
        without_unreached(Selection(layers=layers, findings=()), {layer.name: 1 for layer in layers}, 2)


def layer(name: str, place: Place | None = None, groups: int = 1) -> Layer:
    weight = "mlp.experts.down_proj" if place else f"{name}.weight"
    return Layer(
        name=name, weight=weight, shape=(2, 2), parameters=4, outputs=2, inputs=2, groups=groups, place=place
    )


def part(expert: int) -> Place:
    return Place(expert=expert, start=0, stop=2, tensor="t", index=expert)


def test_tokens_are_told_once_for_each_block_of_experts():
    layers = [
        layer("attention"),
        *(layer(f"mlp.experts.down_proj.{n}", part(n)) for n in range(2)),
        *(layer(f"h.1.experts.{n}.{w}") for n in (0, 1, 10) for w in ("up", "down")),
    ]
    tokens = {"mlp.experts.down_proj.1": 5, "h.1.experts.0.up": 7, "h.1.experts.10.up": 2}
    assert [(finding.subject, finding.message) for finding in expert_tokens(layers, tokens)] == [
        ("mlp.experts", "1 of 2 experts saw no calibration token; tokens of each: 0: 0, 1: 5"),
        ("h.1.experts", "1 of 3 experts saw no calibration token; tokens of each: 0: 7, 1: 0, 10: 2"),
    ]


@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_keeps_only_what_it_can_look_into(name):
    selection = Selection(
        layers=(layer("plain"), layer("grouped", groups=2), layer("e.0", part(0))), findings=()
    )
    left = [layer.name for layer in fitting(selection, CRITERIA[name], name).layers]
    expected = {"sparsegpt": ["plain"], "taylor": ["plain", "grouped"], "fisher": ["plain", "grouped"]}
    assert left == expected.get(name, ["plain", "grouped", "e.0"])


# --- fused weights whose parts are not where they were


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_experts, self.is_transposed = 2, False
        self.up = nn.Parameter(torch.zeros(2, 4, 3))
        self.bias = nn.Parameter(torch.zeros(2, 4))


class Converter:
    """Stacks one stored tensor an expert, after a change of it."""

    def __init__(self, change) -> None:
        self.change, self.given = change, []

    def add_tensor(self, target, name, pattern, tensor) -> None:
        self.given.append(tensor)

    def convert(self, target, model, config) -> dict[str, torch.Tensor]:
        return {target: self.change(self.given)}


def cut(change) -> tuple[list[Layer], list[str]]:
    sources = tuple((f"experts.{n}.up", "experts.*.up") for n in range(2))
    assembly = Assembly(first="experts.up", sources=sources, converter=Converter(change))
    naming = Naming(stored={}, shared={"experts.up": ("experts.up",)}, assemblies=(assembly,), findings=())
    module = nn.Module()
    module.experts = Experts()
    model = model_around(module, naming)
    entries = SimpleNamespace(entry=lambda name: SimpleNamespace(shape=(4, 3)))
    found, findings = expert_layers(
        Model(
            built_from=NO_CONFIG,
            module=module,
            family="",
            config=None,
            path=Path(),
            checkpoint=entries,
            naming=model.naming,
        )
    )
    return found, [finding.subject for finding in findings]


def test_stored_experts_are_found_where_they_were_put():
    layers, resisting = cut(lambda given: torch.stack(given[::-1]))
    assert [(layer.name, layer.place.expert) for layer in layers] == [
        ("experts.1.up", 0),
        ("experts.0.up", 1),
    ]
    assert not resisting


@pytest.mark.parametrize(
    "change",
    [
        lambda given: torch.stack(given).transpose(1, 2),
        lambda given: torch.stack(given) * 2,
        lambda given: torch.stack(given).flip(1),
        lambda given: torch.stack([given[0], given[0]]),
        lambda given: torch.stack(given).flatten(1),
        lambda given: given[5],
    ],
    ids=["transposed", "scaled", "flipped", "one-twice", "flat", "fails"],
)
def test_what_is_not_found_again_unchanged_is_not_pruned(change):
    layers, resisting = cut(change)
    assert not layers
    assert resisting == ["experts.up"]


def test_only_weights_with_a_matrix_for_each_expert_are_fused_ones():
    module = nn.Module()
    module.experts = Experts()
    assert [name for name, _, _ in fused_weights(module)] == ["experts.up"]

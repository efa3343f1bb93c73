"""Pure. What a number in config.json sizes: found by building the model on the meta device with another number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any

import torch

from tasks.contract import BadInput
from tasks.files.configs import ModelConfig
from tasks.loading.building import build

Path = tuple[str | int, ...]
"""Where a number stands in config.json: a key, and an index if the key holds a list."""

KINDS: Mapping[str, tuple[str, ...]] = {
    "width": (
        *("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "ffn_hidden_dim", "hidden_dim", "d_ff"),
        *("moe_intermediate_size", "shared_expert_intermediate_size", "hidden_sizes"),
    ),
    "heads": ("num_attention_heads",),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts"),
    "channels": ("embedding_size", "hidden_sizes", "hidden_channels"),
}  # fmt: skip
"""What architectures call each kind of axis. What a key sizes is measured and not taken from its name."""
_TOP_K = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k", "top_k_experts")
"""What architectures call the number of experts that a token is sent to."""
_OF_GROUP = 2
"""So many experts tell what a group of them is worth, where a routing chooses groups first."""
_CONVOLUTIONAL = 3
"""Dimensions of a weight from which a layer is convolutional."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dim:
    """One dimension of one weight."""

    tensor: str
    """The first of its names in the module."""
    index: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Dimensions that one number of the config sizes, all in proportion to it."""

    kind: str
    name: str
    """As in config.json, for people."""
    count: int
    """How many units there are."""
    per_unit: Mapping[Path, int]
    """What each number of the config is with one unit."""
    fixed: Mapping[Path, Any]
    """What the config must say beside it, so that nothing else changes."""
    dims: tuple[Dim, ...]
    """In module order; of one weight, the dimension that is read comes before the one that is written."""
    least: int = 1
    """With fewer units the model does not run."""
    multiple: int = 1
    """What stays divides by it."""

    @property
    def shared_by(self) -> int:
        """Query heads that share one head of keys and values; 1 on every other axis."""
        return max(self.per_unit.values())

    def settings(self, count: int) -> dict[Path, Any]:
        """What config.json says with so many units."""
        return {**self.fixed, **{path: unit * count for path, unit in self.per_unit.items()}}


class _Unlike(Exception):
    """The model with another number is not the same model with other sizes."""


def axes_of(config: ModelConfig, settings: Any, kind: str, dtype: torch.dtype) -> tuple[Axis, ...]:
    """Every axis of a kind; `settings` is the config object that the architecture was built with.

    BadInput if config.json has no number that sizes such an axis and nothing else.
    """
    dense = shapes_of(config, {}, dtype)
    paths = _paths(config, settings, kind, dense)
    found: list[Axis] = []
    taken: set[Path] = set()
    for size in (1, 2):
        for members in combinations(paths, size):
            if taken.isdisjoint(members) and (axis := _axis(config, settings, kind, members, dense, dtype)):
                found.append(axis)
                taken.update(members)
    if not found:
        raise BadInput(
            f"the model has no {kind} that can be cut",
            why=_why_none(config, settings, kind, paths),
            do="Cut something else, or match the recipe with other models.",
            file="config.json",
        )
    return tuple(found)


def _why_none(config: ModelConfig, settings: Any, kind: str, paths: Sequence[Path]) -> str:
    if kind == "heads" and _value(config, settings, ("num_key_value_heads",)) == 1:
        heads = _value(config, settings, ("num_attention_heads",)) or 1
        return (
            "it has one attention head"
            if heads == 1
            else f"its {heads} heads share one head of keys and values, and such a group stays whole"
        )
    if single := [".".join(map(str, path)) for path in paths if _value(config, settings, path) == 1]:
        return f"{', '.join(single)} is 1"
    return f"no number of its config sizes them and nothing else (looked for {', '.join(KINDS[kind])})"


def shapes_of(
    config: ModelConfig, changes: Mapping[Path, Any], dtype: torch.dtype
) -> dict[str, tuple[int, ...]]:
    """The shape of every weight and buffer that is stored, under the first of its names; BadInput if none is built."""
    changed = ModelConfig(
        architecture=config.architecture, values=with_changes(config.values, changes), findings=()
    )
    module, _, _ = build(changed, dtype)
    seen: dict[int, str] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        seen.setdefault(id(tensor), name)
    state = module.state_dict(keep_vars=True)
    return {name: tuple(state[name].shape) for name in seen.values()}


def with_changes(values: Mapping[str, Any], changes: Mapping[Path, Any]) -> dict[str, Any]:
    """Config values with other numbers at some places."""
    result: Any = deepcopy(dict(values))
    for path, value in changes.items():
        *parents, last = path
        owner = result
        for part in parents:
            owner = owner[part]
        owner[last] = value
    return dict(result)


def _paths(
    config: ModelConfig, settings: Any, kind: str, dense: Mapping[str, tuple[int, ...]]
) -> tuple[Path, ...]:
    """The places of config.json that may size such an axis."""
    is_convolutional = any(len(shape) > _CONVOLUTIONAL for shape in dense.values())
    return tuple(_places(config, settings, kind, is_convolutional))


def _places(config: ModelConfig, settings: Any, kind: str, is_convolutional: bool) -> Iterator[Path]:
    for key in KINDS[kind]:
        own = (getattr(settings, "attribute_map", None) or {}).get(key, key)
        value = config.values.get(own, getattr(settings, own, None))
        if isinstance(value, list | tuple) and own in config.values:
            if is_convolutional == (kind == "channels"):
                yield from ((own, index) for index in range(len(value)))
        elif own in config.values or hasattr(settings, own):
            yield (own,)


def _axis(
    config: ModelConfig,
    settings: Any,
    kind: str,
    paths: Sequence[Path],
    dense: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
) -> Axis | None:
    per_unit, fixed, count = _units(config, settings, kind, paths)
    for probe in _probes(count):
        changes = {**fixed, **{path: unit * probe for path, unit in per_unit.items()}}
        try:
            dims, counted = _differences(dense, shapes_of(config, changes, dtype), probe, count)
        except (BadInput, _Unlike):
            continue
        if counted > 1:
            name = ", ".join(".".join(map(str, path)) for path in paths)
            least, multiple = routing_needs(settings) if kind == "experts" else (1, 1)
            return Axis(
                kind=kind, name=name, count=counted, per_unit=per_unit, fixed=fixed, dims=dims,
                least=least, multiple=multiple,
            )  # fmt: skip
    return None


def routing_needs(settings: Any) -> tuple[int, int]:
    """(the fewest experts among which a token's can be chosen, what their number divides by), from a model's settings."""
    chosen = max(1, *(_number(settings, name) for name in _TOP_K))
    groups = _number(settings, "n_group")
    if not groups:
        return chosen, 1
    open_groups = _number(settings, "topk_group") or groups
    return groups * max(_OF_GROUP, -(-chosen // open_groups)), groups


def _number(settings: Any, name: str) -> int:
    value = getattr(settings, name, None)
    return value if isinstance(value, int) else 0


def _probes(count: int | None) -> tuple[int, ...]:
    """Numbers to build the model with; more than one, since some make it another model, or none at all."""
    if count is None:
        return (1,)
    return tuple(
        number for number in dict.fromkeys((1, count // 2, 3 * count // 4, count // 4)) if 0 < number < count
    )


def _units(
    config: ModelConfig, settings: Any, kind: str, paths: Sequence[Path]
) -> tuple[dict[Path, int], dict[Path, Any], int | None]:
    """The numbers for one unit, what is fixed beside them, and how many units there are (None: by the shapes)."""
    values = [_value(config, settings, path) for path in paths]
    if kind != "heads" or len(paths) > 1:
        count = values[0] if values[0] and len(set(values)) == 1 else None
        return dict.fromkeys(paths, 1), {}, count
    heads = values[0] or 1
    key_values = _value(config, settings, ("num_key_value_heads",)) or heads
    per_unit: dict[Path, int] = {paths[0]: max(1, heads // key_values)}
    if hasattr(settings, "num_key_value_heads"):
        per_unit[("num_key_value_heads",)] = 1
    hidden = getattr(settings, "hidden_size", 0) or 0
    head = getattr(settings, "head_dim", None) or hidden // heads
    return per_unit, {("head_dim",): head}, key_values


def _value(config: ModelConfig, settings: Any, path: Path) -> int | None:
    key, *rest = path
    value: Any = config.values.get(str(key), getattr(settings, str(key), None))
    for part in rest:
        value = value[part]
    return value if isinstance(value, int) and value > 0 else None


def _differences(
    dense: Mapping[str, tuple[int, ...]],
    probed: Mapping[str, tuple[int, ...]],
    probe: int,
    count: int | None,
) -> tuple[tuple[Dim, ...], int]:
    """The dimensions that differ, and the number of units at which they are as they are."""
    if dense.keys() != probed.keys():
        raise _Unlike
    dims: list[Dim] = []
    for name, shape in dense.items():
        other = probed[name]
        if len(shape) != len(other) or 0 in other:
            raise _Unlike
        changed = [index for index, size in enumerate(shape) if size != other[index]]
        dims += [Dim(tensor=name, index=index, size=shape[index]) for index in reversed(changed)]
        for index in changed:
            units = Fraction(shape[index] * probe, other[index])
            if units.denominator != 1 or count not in (None, units.numerator):
                raise _Unlike
            count = units.numerator
    if not dims or count is None:
        raise _Unlike
    return tuple(dims), count

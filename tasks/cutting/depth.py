"""Effects. The blocks that a model is a stack of: found by building it with one fewer, and left out by going round them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import nn

from tasks.contract import BadInput
from tasks.cutting.axes import Path, shapes_of
from tasks.files.configs import ModelConfig

KEY = "num_hidden_layers"
OF_BLOCKS = frozenset(
    {
        *("layer_types", "mlp_layer_types", "layers_block_type", "indexer_types", "attention_layers"),
        *("layer_rope_theta", "no_rope_layers", "swiglu_limits", "attention_window"),
    }
)
"""Lists that say something of each block, whether or not a model is built without them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Blocks of one kind, one after the other."""

    name: str
    """Of the list of modules that holds them."""
    count: int
    key: str
    """What config.json calls their number."""
    lists: Mapping[str, Sequence[Any]]
    """Entries of config.json that say something of each block."""

    def changes(self, kept: Sequence[int]) -> dict[Path, Any]:
        """What config.json says when only these blocks stay."""
        changes: dict[Path, Any] = {(self.key,): len(kept)}
        for key, values in self.lists.items():
            changes[(key,)] = [values[block] for block in kept]
        return changes

    def block_of(self, tensor: str) -> int | None:
        """The block that a weight is part of; None if it is part of none."""
        rest = tensor.removeprefix(f"{self.name}.")
        return int(rest.split(".")[0]) if rest != tensor else None

    def renamed(self, tensor: str, block: int) -> str:
        """The name of the same weight of another block."""
        rest = tensor.removeprefix(f"{self.name}.").partition(".")[2]
        return f"{self.name}.{block}.{rest}"


def stack_of(config: ModelConfig, settings: Any, dtype: torch.dtype) -> Stack:
    """The blocks that `num_hidden_layers`, or what the architecture calls it, counts; BadInput if there are none."""
    key = (getattr(settings, "attribute_map", None) or {}).get(KEY, KEY)
    count = config.values.get(key, getattr(settings, key, None))
    if not isinstance(count, int) or count < 2:
        _refuse(f"{key} is {count!r:.40}")
    lists = _lists_of_blocks(config, settings, key, count, dtype)
    dense = shapes_of(config, {}, dtype)
    all_of_it = Stack(name="", count=count, key=key, lists=lists)
    try:
        fewer = shapes_of(config, all_of_it.changes(range(count - 1)), dtype)
    except BadInput as error:
        _refuse(f"with {key} one lower, {error.why}")
    gone = [name for name in dense if name not in fewer]
    stem = _stem(gone, count - 1)
    if not stem or any(dense[name] != shape for name, shape in fewer.items()):
        _refuse(f"{key} does not count blocks that are all alike in name")
    return Stack(name=stem, count=count, key=key, lists=lists)


@contextmanager
def bypassed(module: nn.Module, stack: Stack, blocks: Collection[int]) -> Iterator[None]:
    """The module with some blocks left out: what they are given goes on as it is."""

    def around(part: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        entered = given[0] if given else named["hidden_states"]
        return (entered, *output[1:]) if isinstance(output, tuple) else entered

    with ExitStack() as handles:
        for block in blocks:
            part = module.get_submodule(f"{stack.name}.{block}")
            handle = part.register_forward_hook(around, with_kwargs=True)
            handles.callback(handle.remove)
        yield


def _lists_of_blocks(
    config: ModelConfig, settings: Any, key: str, count: int, dtype: torch.dtype
) -> dict[str, Sequence[Any]]:
    """Those of `OF_BLOCKS`, and those without which no model with one block fewer is built: two end tokens are no two blocks."""
    lists: dict[str, Sequence[Any]] = {
        name: value
        for name, value in {**vars(settings), **config.values}.items()
        if isinstance(value, list | tuple) and len(value) == count and not name.startswith("_")
    }

    def is_built_without(name: str) -> bool:
        others = {other: value for other, value in lists.items() if other != name}
        stack = Stack(name="", count=count, key=key, lists=others)
        try:
            shapes_of(config, stack.changes(range(count - 1)), dtype)
        except BadInput:
            return False
        return True

    return {name: value for name, value in lists.items() if name in OF_BLOCKS or not is_built_without(name)}


def _stem(names: Sequence[str], number: int) -> str:
    """What stands before the number in all of the names; empty if there is no such thing."""
    if not names:
        return ""
    parts = names[0].split(".")
    places = [place for place, part in enumerate(parts) if part == str(number)]
    stems = [".".join(parts[:place]) for place in places]
    return next((stem for stem in stems if all(name.startswith(f"{stem}.{number}.") for name in names)), "")


def _refuse(why: str) -> NoReturn:
    raise BadInput(
        "the model has no blocks that can be taken out",
        why=why,
        do="Cut something else, or match the recipe with other models.",
        file="config.json",
    )

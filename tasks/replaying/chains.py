"""Effects. Finds the chain of blocks that a forward pass goes through, and where on it each weight is first used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.evaluation import Scores, score
from tasks.examples.batches import Batch
from tasks.loading.models import Model

Chain = tuple[nn.Module, ...]


def chain_of(model: Model, batch: Batch) -> Chain:
    """The blocks that a forward pass goes through once each, in order; empty if there is no such chain.

    Of all lists of modules called in that manner the one with most parameters; a block that is nothing but such a
    list counts as its members.
    """
    lists = [part for part in model.module.modules() if isinstance(part, nn.ModuleList | nn.Sequential)]
    calls: list[tuple[int, bool]] = []
    children = {id(child): child for part in lists for child in part}
    handles = [
        handle
        for key, child in children.items()
        for handle in (
            child.register_forward_pre_hook(lambda *_, key=key: calls.append((key, True))),
            child.register_forward_hook(lambda *_, key=key: calls.append((key, False))),
        )
    ]
    try:
        score(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    chains = {id(part): tuple(part) for part in lists if _is_chain(tuple(part), calls)}
    longest = max(chains.values(), key=lambda chain: (_parameters(chain), len(chain)), default=())
    return tuple(member for block in longest for member in _members(block, chains))


def survey(model: Model, chain: Chain, batches: Sequence[Batch]) -> tuple[list[Scores], Mapping[int, int]]:
    """The dense scores of each batch, and by id of each parameter in use the stage of its first use.

    Every operation on a tensor is seen, so that tied weights and weights read without their module count too.
    """
    uses = _FirstUses(model.module.parameters())
    dense = []
    with ExitStack() as watch:
        for number, block in enumerate(chain, 1):
            watch.enter_context(watching(block, uses.finisher(number)))
        watch.enter_context(uses)
        for batch in batches:
            uses.reach(0)
            dense.append(score(model, batch))
    return dense, uses.stages()


class _FirstUses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation, and notes at which stage each parameter's memory is first among its arguments."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._parameters = list(parameters)
        self._memories = {_memory(parameter) for parameter in self._parameters}
        self._first: dict[int, int] = {}
        self._stage = 0

    def reach(self, stage: int) -> None:
        """So many blocks are finished now."""
        self._stage = stage

    def finisher(self, stage: int) -> Callable[[object], None]:
        """What to call with whatever leaves the block that ends a stage."""
        return lambda _: self.reach(stage)

    def stages(self) -> dict[int, int]:
        """By id of the parameter."""
        return {
            id(parameter): self._first[_memory(parameter)]
            for parameter in self._parameters
            if _memory(parameter) in self._first
        }

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in tensors_in((args, kwargs)):
            memory = _memory(tensor)
            if memory in self._memories:
                self._first[memory] = min(self._stage, self._first.get(memory, self._stage))
        return operation(*args, **(kwargs or {}))


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested lists, tuples and dicts."""
    match value:
        case torch.Tensor():
            yield value
        case list() | tuple():
            for member in value:
                yield from tensors_in(member)
        case dict():
            yield from tensors_in(list(value.values()))


@contextmanager
def watching(block: nn.Module, see: Callable[[Any], None]) -> Iterator[None]:
    """Shows `see` what leaves the block."""
    handle = block.register_forward_hook(lambda module, given, output: see(output))
    try:
        yield
    finally:
        handle.remove()


def _is_chain(members: Chain, calls: Sequence[tuple[int, bool]]) -> bool:
    wanted = [(id(member), is_start) for member in members for is_start in (True, False)]
    keys = {key for key, _ in wanted}
    return bool(members) and [call for call in calls if call[0] in keys] == wanted


def _members(block: nn.Module, chains: Mapping[int, Chain]) -> Iterator[nn.Module]:
    inner = [block, *block.children()] if len(list(block.children())) == 1 else [block]
    chain = next((chains[id(part)] for part in inner if id(part) in chains), None)
    if chain is None:
        yield block
    else:
        for member in chain:
            yield from _members(member, chains)


def _parameters(chain: Chain) -> int:
    return sum(parameter.numel() for block in chain for parameter in block.parameters())

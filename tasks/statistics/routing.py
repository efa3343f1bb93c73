"""Effects. Shows what each expert of a fused weight is given, by watching the products in which its part takes part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tasks.loading.experts import fused_weights
from tasks.loading.models import Layer

_PRODUCTS = frozenset({"linear", "matmul", "mm", "__matmul__"})
_CHOICE = "_experts_implementation_internal"

Show = Callable[[Layer, nn.Module, torch.Tensor], None]


@contextmanager
def watching_experts(module: nn.Module, layers: Sequence[Layer], add: Show) -> Iterator[None]:
    """Shows `add` the inputs that are routed to each expert; experts run one by one meanwhile, as transformers wrote them.

    An expert that takes part in no product is not shown, so what another implementation hides counts as unreached.
    """
    by_part: dict[tuple[str, int], list[Layer]] = {}
    for layer in layers:
        if layer.place is not None:
            by_part.setdefault((layer.weight, layer.place.expert), []).append(layer)
    if not by_part:
        yield
        return
    fused = {name: (part, weight) for name, part, weight in fused_weights(module)}
    watched = {name: fused[name] for name, _ in by_part}
    configs = {id(part.config): part.config for part, _ in watched.values()}
    before = {key: vars(config).get(_CHOICE) for key, config in configs.items()}
    try:
        for config in configs.values():
            vars(config)[_CHOICE] = "eager"
        with _Products(watched, by_part, add):
            yield
    finally:
        for key, config in configs.items():
            vars(config)[_CHOICE] = before[key]


class _Products(TorchFunctionMode):
    """Sees every product of two tensors, and which expert's part of a watched weight is one of them."""

    def __init__(
        self,
        watched: Mapping[str, tuple[Any, nn.Parameter]],
        by_part: Mapping[tuple[str, int], list[Layer]],
        add: Show,
    ) -> None:
        super().__init__()
        self._weights = {
            weight.untyped_storage().data_ptr(): (name, part, weight)
            for name, (part, weight) in watched.items()
        }
        self._by_part, self._add = by_part, add

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(function, "__name__", "") in _PRODUCTS and len(args) >= 2:
            self._look(*args[:2])
        return function(*args, **(kwargs or {}))

    def _look(self, given: Any, weight: Any) -> None:
        if not (isinstance(given, torch.Tensor) and isinstance(weight, torch.Tensor) and weight.dim() == 2):
            return
        found = self._weights.get(weight.untyped_storage().data_ptr())
        if found is None:
            return
        name, part, whole = found
        at = (weight.data_ptr() - whole.data_ptr()) // (whole.stride(0) * whole.element_size())
        for layer in self._by_part.get((name, at), ()):
            self._add(layer, part, given)

"""Pure. Which tensors of a checkpoint are which weights of a module: nothing missing, nothing left over."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import nn

from tasks.contract import BadInput, Finding

_STALE = ("rotary_emb.inv_freq", "position_ids")
"""Buffers that older checkpoints hold and that every model now computes itself."""
_OLD_MASKS = ("attn.bias", "attention.bias", ".masked_bias")
"""Of GPT-2 and its like, [1, 1, tokens, tokens], and the number that stood where they hide; a bias has one dimension."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """Weights that transformers makes out of several stored tensors, such as the experts of one layer fused into one."""

    first: str
    sources: tuple[tuple[str, str], ...]
    """(stored tensor, the pattern of transformers' converter that it matched)."""
    converter: Any

    def assemble(self, module: nn.Module, read: Callable[[str], torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weight name -> tensor."""
        converter = deepcopy(self.converter)
        for name, pattern in self.sources:
            converter.add_tensor(self.first, name, pattern, read(name))
        result = converter.convert(self.first, model=module, config=getattr(module, "config", None))
        return {name: value[0] if isinstance(value, list) else value for name, value in result.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """How a module's weights are stored; weights that share memory in the module are one entry, under all their names."""

    stored: Mapping[str, tuple[str, ...]]
    """Weight name -> the stored tensors that are it; more than one if a shared weight is stored repeatedly."""
    shared: Mapping[str, tuple[str, ...]]
    """Weight name -> every name of that weight in the module, itself first."""
    assemblies: tuple[Assembly, ...]
    findings: tuple[Finding, ...]


def name_tensors(module: nn.Module, shapes: Mapping[str, tuple[int, ...]], file: str) -> Naming:
    """Matches stored tensors (name -> shape) with the weights of a module on the meta device; raises BadInput.

    What belongs to another head than the module's, and buffers that it computes itself, are findings; anything else too much is
    an error.
    """
    targets: dict[str, torch.Tensor] = module.state_dict(keep_vars=True)
    shared = _shared(targets)
    rename, converter_of = _conversions(module, targets)
    direct: dict[str, str] = {}
    parts: dict[str, list[tuple[str, str]]] = {}
    unexpected: list[str] = []
    for name in shapes:
        target, pattern = rename(name)
        if target not in targets:
            unexpected.append(name)
        elif pattern is not None:
            parts.setdefault(target, []).append((name, pattern))
        elif target in direct:
            _refuse(f"it and {direct[target]} are both the weight {target}", file, name)
        else:
            direct[target] = name
            _check_shape(shapes[name], targets[target], file, name)
    assemblies = tuple(
        Assembly(
            first=first,
            sources=tuple(sorted(sources, key=lambda source: _in_counting_order(source[0]))),
            converter=converter_of(sources[0][1]),
        )
        for first, sources in parts.items()
    )
    made = _check_assemblies(assemblies, module, targets, shapes, file)
    findings = _unused(module, unexpected, shapes, file)
    missing = [name for name, names in shared.items() if not any(n in direct or n in made for n in names)]
    if missing:
        _refuse(
            f"the model has {len(missing)} weights that the file lacks: {_some(missing)}", file, missing[0]
        )
    stored = {
        first: found
        for first, names in shared.items()
        if (found := tuple(direct[name] for name in names if name in direct))
    }
    return Naming(stored=stored, shared=shared, assemblies=assemblies, findings=findings)


def _in_counting_order(name: str) -> list[str | int]:
    """Files may hold expert 10 before expert 2; transformers counts."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]


def _shared(targets: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, ...]]:
    groups: dict[int, list[str]] = {}
    for name, tensor in targets.items():
        groups.setdefault(id(tensor), []).append(name)
    return {names[0]: tuple(names) for names in groups.values()}


def _conversions(
    module: Any, targets: dict[str, torch.Tensor]
) -> tuple[Callable[[str], tuple[str, str | None]], Callable[[str], Any]]:
    """transformers' own rules from stored names to names in its current classes; none for other modules."""
    prefix = getattr(module, "base_model_prefix", None)
    if prefix is None:
        return lambda name: (name, None), lambda pattern: None
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    rules = get_model_conversion_mapping(module)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    converter_of = {pattern: rule for rule in converters for pattern in rule.source_patterns}

    def rename(name: str) -> tuple[str, str | None]:
        target, pattern = rename_source_key(name, renamings, converters, prefix, targets)
        if target not in targets and name in targets:
            return name, None
        return target, pattern

    return rename, converter_of.__getitem__


def _check_assemblies(
    assemblies: Sequence[Assembly],
    module: nn.Module,
    targets: Mapping[str, torch.Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    file: str,
) -> set[str]:
    made: set[str] = set()
    for assembly in assemblies:
        first = assembly.sources[0][0]
        try:
            result = assembly.assemble(module, lambda name: torch.empty(shapes[name], device="meta"))
        except (RuntimeError, ValueError, KeyError, IndexError, TypeError) as error:
            _refuse(f"it and its like do not make up {assembly.first}: {error}", file, first)
        for name, tensor in result.items():
            if name not in targets:
                _refuse(f"it would make up {name}, which the model does not have", file, first)
            _check_shape(tuple(tensor.shape), targets[name], file, first)
        made.update(result)
    return made


def _unused(
    module: nn.Module, unexpected: Sequence[str], shapes: Mapping[str, tuple[int, ...]], file: str
) -> tuple[Finding, ...]:
    known: Iterable[str] = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    patterns = [re.compile(pattern) for pattern in known]
    stale = [
        name
        for name in unexpected
        if name.endswith(_STALE)
        or (name.endswith(_OLD_MASKS) and len(shapes[name]) in (0, 4))
        or any(pattern.search(name) for pattern in patterns)
    ]
    heads = [name for name in unexpected if name not in stale and _is_beside(module, name)]
    strangers = [name for name in unexpected if name not in stale and name not in heads]
    if strangers:
        why = f"{len(strangers)} of {len(shapes)} stored tensors are no weights of the model: {_some(strangers)}"
        _refuse(why, file, strangers[0])
    itself, elsewhere = "the model computes it itself", "it is of a head that the model does not have"
    return tuple(
        Finding(
            kind="unused_tensor",
            subject=name,
            message=f"is stored, and {elsewhere if name in heads else itself}; copied, not used",
        )
        for name in unexpected
    )


def _is_beside(module: Any, name: str) -> bool:
    """Whether a stored tensor is of no part of the model's body."""
    prefix = getattr(module, "base_model_prefix", None)
    if prefix is None:
        return False
    body = getattr(module, prefix, module)
    return name.removeprefix(f"{prefix}.").partition(".")[0] not in dict(body.named_children())


def _check_shape(stored: tuple[int, ...], target: torch.Tensor, file: str, name: str) -> None:
    if stored != tuple(target.shape):
        _refuse(f"its shape is {list(stored)} and config.json asks for {list(target.shape)}", file, name)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _refuse(why: str, file: str, tensor: str) -> NoReturn:
    raise BadInput(
        "the weights do not fit the model",
        why=why,
        do="Use the config.json and the weights of one and the same export.",
        file=file,
        tensor=tensor,
    )

"""Pure. Which layers of a model a recipe prunes, and why it leaves each of the others alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tasks.contract import BadInput, Finding
from tasks.loading.experts import expert_layers, fused_weights
from tasks.loading.models import Layer, Model, prunable_layers, skipped_layers
from tasks.masks.patterns import block_of, kept_of_group


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The layers to prune, in module order, and a finding for each weight left alone without having been asked to."""

    layers: tuple[Layer, ...]
    findings: tuple[Finding, ...]


def select_layers(model: Model, pattern: str, skip: Sequence[str]) -> Selection:
    """The prunable layers that no shell-style pattern of `skip` matches and that `pattern` fits.

    BadInput if an entry of `skip` matches no layer, if nothing is left, or for a weight that is no floating number.
    """
    experts, resisting = expert_layers(model)
    candidates = _in_module_order(model, [*prunable_layers(model.module), *experts])
    for entry in skip:
        if not any(fnmatchcase(layer.name, entry) for layer in candidates):
            names = ", ".join(layer.name for layer in candidates[:3])
            raise BadInput(
                "a layer to skip does not exist",
                why=f"{entry!r} matches none of the {len(candidates)} prunable layers ({names}, …)",
                do="Correct the pattern in the recipe's skip, or remove it.",
            )
    layers: list[Layer] = []
    known = {name for name, _, _ in fused_weights(model.module)}
    findings = [finding for finding in skipped_layers(model.module) if finding.subject not in known]
    findings.extend(resisting)
    for layer in candidates:
        if any(fnmatchcase(layer.name, entry) for entry in skip):
            continue
        if reason := _reason_to_skip(model, layer, pattern):
            findings.append(Finding(kind="skipped_layer", subject=layer.name, message=reason))
        else:
            layers.append(layer)
    if not layers:
        reasons = "; ".join(sorted({finding.message for finding in findings})[:3])
        raise BadInput(
            "there is nothing to prune",
            why=f"none of {len(candidates)} layers is left{f' ({reasons})' if reasons else ''}",
            do="Skip fewer layers, or choose another pattern.",
        )
    return Selection(layers=tuple(layers), findings=tuple(findings))


def without_groups(selection: Selection) -> Selection:
    """Without the convolutions in groups: their rows have no Hessian in common, so they are not reconstructed."""
    message = (
        "its rows see different inputs (groups), which sparsegpt does not reconstruct; use magnitude or wanda"
    )
    lost = tuple(layer for layer in selection.layers if layer.groups > 1)
    left = tuple(layer for layer in selection.layers if layer.groups == 1)
    if not left:
        raise BadInput(
            "there is nothing to prune", why=f"of every layer {message}", do="Use another criterion."
        )
    findings = (Finding(kind="skipped_layer", subject=layer.name, message=message) for layer in lost)
    return Selection(layers=left, findings=(*selection.findings, *findings))


def stored_names(model: Model, layer: Layer) -> tuple[str, ...]:
    """The stored tensors that hold the layer's weight; none if it is put together from several."""
    return stored_as(model, layer.weight) if layer.place is None else (layer.place.tensor,)


def stored_as(model: Model, name: str) -> tuple[str, ...]:
    """The stored tensors that are a parameter or buffer of the module; none if it is put together from several."""
    return next(
        (model.naming.stored.get(first, ()) for first, names in model.naming.shared.items() if name in names),
        (),
    )


def in_stored_order(model: Model, layers: Sequence[Layer]) -> list[Layer]:
    """The layers as their tensors come in the files."""
    place = {name: index for index, name in enumerate(model.checkpoint.names)}
    return sorted(layers, key=lambda layer: place[stored_names(model, layer)[0]])


def without_experts(selection: Selection, criterion: str) -> Selection:
    """Without the experts of fused weights, for a criterion that looks at gradients or Hessians."""
    message = (
        f"it is an expert of a fused weight, which {criterion} does not look into; use magnitude or wanda"
    )
    return _without(selection, {layer.name: message for layer in selection.layers if layer.place})


def without_unreached(selection: Selection, reached: Mapping[str, int], least: int) -> Selection:
    """Without the layers that too few calibration vectors came to (name -> how many): their scores would say nothing."""
    lost = {}
    for layer in selection.layers:
        count = reached.get(layer.name, 0)
        if count == 0:
            lost[layer.name] = "no calibration example reaches it, so it has no scores"
        elif count < least:
            lost[layer.name] = f"only {count} calibration tokens reach it, and min_tokens is {least}"
    return _without(selection, lost)


def _without(selection: Selection, lost: Mapping[str, str]) -> Selection:
    if not lost:
        return selection
    left = tuple(layer for layer in selection.layers if layer.name not in lost)
    if not left:
        why = next(iter(lost.values()))
        raise BadInput(
            "there is nothing to prune",
            why=f"of each of the {len(lost)} layers holds: {why}",
            do="Use other calibration data, or another criterion.",
        )
    findings = (Finding(kind="skipped_layer", subject=name, message=why) for name, why in lost.items())
    return Selection(layers=left, findings=(*selection.findings, *findings))


def _in_module_order(model: Model, layers: Sequence[Layer]) -> list[Layer]:
    place = {name: index for index, name in enumerate(model.module.state_dict())}
    return sorted(layers, key=lambda layer: place[layer.weight])


def _reason_to_skip(model: Model, layer: Layer, pattern: str) -> str:
    stored = stored_names(model, layer)
    if not stored:
        return "it is put together from several stored tensors, which cannot be pruned yet"
    if layer.parameters == 0:
        return "it has no weights"
    groups = kept_of_group(pattern)
    if groups and (layer.inputs // layer.groups) % groups[1]:
        return f"{groups[1]} of {pattern} does not divide its {layer.inputs // layer.groups} inputs"
    if block := block_of(pattern):
        rows, columns = layer.outputs // layer.groups, layer.inputs // layer.groups
        if rows % block[0] or columns % block[1]:
            each = "" if layer.groups == 1 else f" of each of its {layer.groups} groups"
            return f"{pattern} does not divide the {rows} outputs and {columns} inputs{each}"
    return ""

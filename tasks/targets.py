"""Pure. The layers that a prune recipe changes: those selected, stored as they are, and of a floating dtype."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.contract import BadInput, Finding
from tasks.models import Layer, Model, prunable_layers, skipped_layers
from tasks.selection import Selection, select


def choose_targets(model: Model, pattern: str, skip: Sequence[str]) -> Selection:
    """The layers to prune, in module order, and a finding for each weight left alone without having been asked to.

    BadInput if an entry of `skip` matches no layer, if nothing is left, or for a weight that is no floating number.
    """
    candidates = prunable_layers(model.module)
    selection = select(candidates, skip, pattern)
    unmatched = [finding.subject for finding in selection.findings if finding.kind == "unmatched_pattern"]
    if unmatched:
        names = ", ".join(layer.name for layer in candidates[:3])
        raise BadInput(
            "a layer to skip does not exist",
            why=f"{unmatched[0]!r} matches none of the {len(candidates)} prunable layers ({names}, …)",
            do="Correct the pattern in the recipe's skip, or remove it.",
        )
    layers: list[Layer] = []
    findings = [*skipped_layers(model.module), *selection.findings]
    for layer in selection.layers:
        if reason := _reason_to_skip(model, layer):
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


def stored_names(model: Model, layer: Layer) -> tuple[str, ...]:
    """The stored tensors that are the layer's weight; none if it is put together from several."""
    return next(
        (
            model.naming.stored.get(first, ())
            for first, names in model.naming.shared.items()
            if layer.weight in names
        ),
        (),
    )


def _reason_to_skip(model: Model, layer: Layer) -> str:
    stored = stored_names(model, layer)
    if not stored:
        return "it is put together from several stored tensors, which cannot be pruned yet"
    for name in stored:
        if not model.checkpoint.dtype(name).is_floating_point:
            raise BadInput(
                "a layer cannot be pruned",
                why=f"its weights are stored as {model.checkpoint.entry(name).dtype}, so it is already quantized",
                do="Use the original model in bfloat16, float16 or float32.",
                file=model.checkpoint.file(name).path.name,
                tensor=name,
            )
    return "" if layer.parameters else "it has no weights"

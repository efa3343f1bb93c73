"""Effects. Counts what a prune unit wrote, from the files alone: rows, findings, and the mark beside the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.amounts.allocation import Allocation
from tasks.amounts.budgets import remains
from tasks.contract import Finding, Row, Work
from tasks.loading.models import Layer, Model
from tasks.loading.weights import Checkpoint
from tasks.masks.patterns import block_of, kept_of_group
from tasks.masks.selection import stored_names
from tasks.measuring.measures import dense_flops, parameter_names
from tasks.recipes import Recipe
from tasks.statistics.calibration import Statistics
from tasks.writing.recount import Written, count_nonzero, recount
from tasks.writing.sweeping import Outcome

MARK = "prunefleet.json"
"""The file that tells a directory of ours from a model's own."""


def measure(
    model: Model,
    pruned: Checkpoint,
    layers: Sequence[Layer],
    recipe: Recipe,
    allocation: Allocation,
    outcomes: Mapping[str, Outcome],
    retouched: Mapping[str, str],
) -> tuple[list[Row], dict[str, Any]]:
    """The rows of `layers`, and that of `artifacts`; ArtifactWrong unless the files are what was meant."""
    groups, block = kept_of_group(recipe.pattern), block_of(recipe.pattern)
    written: dict[str, list[Written]] = {}
    for layer in layers:
        outcome = outcomes[layer.name]
        for name in stored_names(model, layer):
            digest = retouched.get(name, outcome.digest)
            meant = Written(layer=layer, pruned=outcome.pruned, group=groups, block=block, digest=digest)
            written.setdefault(name, []).append(meant)
    zeros = recount(model.checkpoint, pruned, written, retouched)
    rows: list[Row] = [
        {
            "layer": layer.name,
            "parameters": layer.parameters,
            "pruned_parameters": zeros[layer.name],
            "amount_asked": allocation.amounts[layer.name],
            "amount": zeros[layer.name] / layer.parameters,
            "reconstruction_error": outcomes[layer.name].error,
        }
        for layer in layers
    ]
    stored = parameter_names(model)
    counted = {
        name: zeros[members[0].layer.name]
        for name, members in written.items()
        if members[0].layer.place is None or members[0].layer.place.index is None
    }
    others = [name for name in stored if name not in counted]
    total = sum(pruned.entry(name).elements for name in stored)
    nonzero = count_nonzero(pruned, others) + sum(
        pruned.entry(name).elements - counted[name] for name in stored if name in counted
    )
    flops, left = dense_flops(model), remains(model, layers, zeros)
    artifact = {
        "dense_bytes": model.checkpoint.bytes,
        "bytes": pruned.bytes,
        "dense_parameters": total,
        "parameters": total,
        "nonzero_parameters": nonzero,
        "dense_flops": flops,
        "flops": flops,
        "effective_flops": left.flops,
        "sparse_bytes": left.bytes,
        "runtime": "none",
    }
    return rows, artifact


def findings_of(
    layers: Sequence[Layer],
    recipe: Recipe,
    rows: Sequence[Row],
    outcomes: Mapping[str, Outcome],
    statistics: Statistics | None,
    artifact: Mapping[str, Any],
) -> list[Finding]:
    """Zero effects, weights that were zero before, dead inputs, and what the zeros do not gain."""
    found = []
    for layer, row in zip(layers, rows, strict=True):
        asked, zeros = outcomes[layer.name].pruned, row["pruned_parameters"]
        if asked == 0:
            message = f"amount {row['amount_asked']:g} prunes none of its {layer.parameters} weights"
            found.append(Finding(kind="zero_effect", subject=layer.name, message=message))
        if zeros > asked:
            message = f"{zeros} of {layer.parameters} weights are zero and {asked} were asked for: the rest were zero before"
            found.append(Finding(kind="more_zeros", subject=layer.name, message=message))
        dead = int((statistics.squares[layer.name] == 0).sum()) if statistics else 0
        if dead:
            message = f"{dead} of {layer.inputs} inputs are zero for every calibration example"
            found.append(Finding(kind="dead_input", subject=layer.name, message=message))
    if any(outcome.pruned for outcome in outcomes.values()):
        message = (
            "zeros are stored like other numbers: sparse but neither smaller nor faster in a dense runtime"
        )
        if recipe.pattern == "2:4":
            message += "; a runtime with 2:4 kernels, such as TensorRT, may gain"
        found.append(Finding(kind="no_speedup", subject=recipe.pattern, message=message))
    if artifact["flops"] is None:
        message = "the model cannot be traced without data, so its flops are not known"
        found.append(Finding(kind="unknown_flops", subject="model", message=message))
    return found


def write_mark(work: Work, rows: Sequence[Row], artifact: Mapping[str, Any]) -> None:
    """Leaves the params, rows and measures beside the weights."""
    assert work.output is not None
    content = {
        "made_by": "prunefleet",
        "format": 1,
        "params": dict(work.params),
        "layers": {row["layer"]: {k: v for k, v in row.items() if k != "layer"} for row in rows},
        "measures": dict(artifact),
    }
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    Path(work.output, MARK).write_text(text + "\n", encoding="utf-8")

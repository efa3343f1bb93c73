"""Effects. The prune task: scores, masks and writes a model, then re-opens the result and counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tasks.allocation import Allocation, by_sensitivity, uniform
from tasks.calibration import Statistics, input_norms_over
from tasks.contract import BadInput, Finding, Product, Row, Work
from tasks.criteria import Criterion, criterion_named
from tasks.data import read
from tasks.densities import erk, outlier_share, owl
from tasks.fitting import Fitted, fit
from tasks.masking import mask_layer, zeroed
from tasks.measures import dense_flops, parameter_names
from tasks.models import Layer, Model, load, outline
from tasks.patterns import NotANumber, kept_of_group
from tasks.reconstruct import NotPositive
from tasks.recount import Written, count_nonzero, recount
from tasks.selection import Selection, select_layers, stored_names, without_groups
from tasks.sweeping import Change, Outcome, findings_of_sweeps, hessians_as_stored, sweeping
from tasks.weights import Checkpoint, check_finite, open_checkpoint, write_like

MARK = "prunefleet.json"
"""The file that tells a directory of ours from a model's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The params of a prune unit, checked."""

    criterion: str
    pattern: str
    scope: str | None
    amount: float
    allocation: str
    max_amount: float
    skip: tuple[str, ...]


def run(work: Work) -> Product:
    """Writes the pruned model to `work.output` and tells, per layer and in all, what the written files hold.

    Table `layers`: `pruned_parameters` are the zeros of the written tensor, those that were zero before included;
    `reconstruction_error` is the sum of squared scores of what went over that of all: with wanda the diagonal
    approximation of ||(W - W') X||^2 / ||W X||^2, with magnitude the same for inputs of equal norm; with sparsegpt it is
    that quotient itself. Table `artifacts`: see `tasks.measures` for what flops count; masks leave them as they are.
    """
    recipe = read_recipe(work.params)
    if work.output is None:
        raise ValueError("a prune unit needs an output directory")
    model = outline(work.model)
    selection = select_layers(model, recipe.pattern, recipe.skip)
    criterion = criterion_named(recipe.criterion, work.seed)
    if criterion.reconstructs:
        selection = without_groups(selection)
    needs_data = criterion.needs_activations or recipe.allocation == "owl"
    calibration = _calibrate(work, selection) if needs_data else None
    statistics = calibration.statistics if calibration else None
    selection = _reached(selection, statistics)
    allocation = _allocate(recipe, model, selection.layers, statistics, work)
    outcomes: dict[str, Outcome] = {}
    matrices = None
    change = _masking(recipe, criterion, statistics)
    if criterion.reconstructs and calibration:
        matrices = hessians_as_stored(model, selection.layers, calibration.model, calibration.fitted)
        change = sweeping(recipe.pattern, recipe.scope, matrices)
    file_findings = write_like(
        model.checkpoint,
        work.output,
        _changes(model, selection.layers, recipe, change, allocation, outcomes),
    )
    pruned = open_checkpoint(work.output)
    rows, artifact = _measure(model, pruned, selection.layers, recipe, allocation, outcomes)
    _write_mark(work, rows, artifact)
    findings = (
        *model.findings,
        *selection.findings,
        *(statistics.findings if statistics else ()),
        *file_findings,
        *_findings_of(selection.layers, recipe, rows, outcomes, statistics, artifact),
        *(findings_of_sweeps(outcomes, matrices) if matrices else ()),
    )
    return Product(tables={"layers": rows, "artifacts": [artifact]}, has_artifact=True, findings=findings)


def read_recipe(params: Mapping[str, Any]) -> Recipe:
    """The params of a prune unit; BadInput for values that contradict each other."""
    pattern, amount = params["pattern"], params.get("amount")
    try:
        groups = kept_of_group(pattern)
    except ValueError as error:
        raise _bad_recipe(str(error)) from None
    allocation = params.get("allocation", "uniform")
    if allocation not in ("uniform", "sensitivity", "erk", "owl"):
        raise _bad_recipe(f"allocation {allocation!r} is unknown")
    if groups is not None:
        implied = 1 - groups[0] / groups[1]
        if allocation != "uniform" or (amount is not None and abs(amount - implied) > 1e-9):
            raise _bad_recipe(f"pattern {pattern} prunes {implied:g} of every layer")
        amount = implied
    if amount is None or not 0 <= amount <= 1:
        raise _bad_recipe(f"amount is {amount!r} and must be a share from 0 to 1")
    scope = params.get("scope")
    if scope not in (None, "tensor", "row") or (groups is not None and scope is not None):
        raise _bad_recipe(f"scope {scope!r} does not go with pattern {pattern}")
    return Recipe(
        criterion=params["criterion"],
        pattern=pattern,
        scope=scope,
        amount=float(amount),
        allocation=allocation,
        max_amount=float(params.get("max_amount", 1.0)),
        skip=tuple(params.get("skip", ())),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calibration:
    """The model that runs, its examples, and what they showed."""

    model: Model
    fitted: Fitted
    statistics: Statistics


def _calibrate(work: Work, selection: Selection) -> _Calibration:
    if "calibration" not in work.datasets:
        raise _bad_recipe("the criterion or allocation needs activations and there is no calibration data")
    model = load(work.model, work.device)
    fitted = fit(read(work.datasets["calibration"]), model)
    statistics = input_norms_over(model, selection.layers, fitted)
    return _Calibration(model=model, fitted=fitted, statistics=statistics)


def _reached(selection: Selection, statistics: Statistics | None) -> Selection:
    """Without the layers that no calibration example came to: they have no scores."""
    if statistics is None or not statistics.unreached:
        return selection
    message = "no calibration example reaches it, so it has no scores"
    left = tuple(layer for layer in selection.layers if layer.name not in statistics.unreached)
    if not left:
        raise BadInput("there is nothing to prune", why=message, do="Use other calibration data.")
    lost = tuple(
        Finding(kind="skipped_layer", subject=name, message=message) for name in statistics.unreached
    )
    return Selection(layers=left, findings=(*selection.findings, *lost))


def _allocate(
    recipe: Recipe, model: Model, layers: Sequence[Layer], statistics: Statistics | None, work: Work
) -> Allocation:
    sizes = {layer.name: layer.parameters for layer in layers}
    if recipe.allocation == "uniform":
        return uniform(sizes, recipe.amount)
    if recipe.allocation == "erk":
        return erk({layer.name: layer.shape for layer in layers}, recipe.amount, recipe.max_amount)
    if recipe.allocation == "owl":
        assert statistics is not None, "owl was calibrated for"
        outliers = {layer.name: _outliers(model, layer, statistics) for layer in layers}
        return owl(sizes, outliers, recipe.amount, recipe.max_amount)
    rows = work.inputs.get("sensitivity", ())
    for row in rows:
        for key, value in (("criterion", recipe.criterion), ("pattern", recipe.pattern)):
            if row.get(key) not in (None, value):
                raise _bad_recipe(f"the sensitivity was measured with {key} {row[key]}, not {value}")
    return by_sensitivity(sizes, rows, recipe.amount, recipe.max_amount)


def _outliers(model: Model, layer: Layer, statistics: Statistics) -> float:
    checkpoint, name = model.checkpoint, stored_names(model, layer)[0]
    weight = checkpoint.mapped(name)
    check_finite(weight, name, checkpoint.file(name).path.name)
    share = outlier_share(layer, weight, statistics.squares[layer.name].cpu())
    checkpoint.release()
    return share


def _changes(
    model: Model,
    layers: Sequence[Layer],
    recipe: Recipe,
    change_layer: Change,
    allocation: Allocation,
    outcomes: dict[str, Outcome],
) -> Callable[[str], Iterable[memoryview] | None]:
    """What `write_like` asks for; looks at every dense weight once, and notes the outcomes of the layers."""
    layer_of = {name: layer for layer in layers for name in stored_names(model, layer)}
    checkpoint = model.checkpoint

    def change(name: str) -> Iterable[memoryview] | None:
        checkpoint.release()
        file = checkpoint.file(name).path.name
        layer = layer_of.get(name)
        weight = checkpoint.mapped(name)
        check_finite(weight, name, file)
        if layer is None:
            return None
        try:
            outcomes[layer.name], blocks = change_layer(layer, weight, allocation.amounts[layer.name])
        except NotANumber:
            raise _bad_score(recipe.criterion, file, name) from None
        except NotPositive as error:
            raise BadInput(
                "a layer cannot be reconstructed",
                why=f"the Hessian of its inputs has no Cholesky factor, {error}",
                do="Skip the layer, use more calibration data, or the criterion wanda.",
                file=file,
                tensor=name,
            ) from None
        return blocks

    return change


def _masking(recipe: Recipe, criterion: Criterion, statistics: Statistics | None) -> Change:
    """Zeros where the scores are lowest; what stays stays as it is."""

    def change(layer: Layer, weight: torch.Tensor, amount: float) -> tuple[Outcome, Iterable[memoryview]]:
        squares = statistics.squares[layer.name].cpu() if criterion.needs_activations and statistics else None
        masked = mask_layer(
            criterion, layer, weight, squares, amount=amount, pattern=recipe.pattern, scope=recipe.scope
        )
        return Outcome(pruned=masked.pruned, error=masked.error), zeroed(layer, weight, masked.mask)

    return change


def _measure(
    model: Model,
    pruned: Checkpoint,
    layers: Sequence[Layer],
    recipe: Recipe,
    allocation: Allocation,
    outcomes: Mapping[str, Outcome],
) -> tuple[list[Row], dict[str, Any]]:
    groups = kept_of_group(recipe.pattern)
    names = {layer.name: stored_names(model, layer) for layer in layers}
    written = {
        name: Written(
            layer=layer, pruned=outcomes[layer.name].pruned, group=groups, digest=outcomes[layer.name].digest
        )
        for layer in layers
        for name in names[layer.name]
    }
    zeros = recount(model.checkpoint, pruned, written)
    rows: list[Row] = [
        {
            "layer": layer.name,
            "parameters": layer.parameters,
            "pruned_parameters": zeros[names[layer.name][0]],
            "amount_asked": allocation.amounts[layer.name],
            "amount": zeros[names[layer.name][0]] / layer.parameters,
            "reconstruction_error": outcomes[layer.name].error,
        }
        for layer in layers
    ]
    stored = parameter_names(model)
    others = [name for name in stored if name not in zeros]
    total = sum(pruned.entry(name).elements for name in stored)
    nonzero = count_nonzero(pruned, others) + sum(
        pruned.entry(name).elements - zeros[name] for name in stored if name in zeros
    )
    flops = dense_flops(model)
    artifact = {
        "dense_bytes": model.checkpoint.bytes,
        "bytes": pruned.bytes,
        "dense_parameters": total,
        "parameters": total,
        "nonzero_parameters": nonzero,
        "dense_flops": flops,
        "flops": flops,
        "runtime": "none",
    }
    return rows, artifact


def _findings_of(
    layers: Sequence[Layer],
    recipe: Recipe,
    rows: Sequence[Row],
    outcomes: Mapping[str, Outcome],
    statistics: Statistics | None,
    artifact: Mapping[str, Any],
) -> list[Finding]:
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


def _write_mark(work: Work, rows: Sequence[Row], artifact: Mapping[str, Any]) -> None:
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


def _bad_recipe(why: str) -> BadInput:
    return BadInput("the recipe cannot be carried out", why=why, do="Correct the recipe's prune step.")


def _bad_score(criterion: str, file: str, tensor: str) -> BadInput:
    return BadInput(
        "a score is not a number",
        why=f"the criterion {criterion} gives NaN or infinity",
        do="Use another criterion, or calibration data with smaller activations.",
        file=file,
        tensor=tensor,
    )

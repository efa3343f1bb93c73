"""Effects. The sensitivity task: the real loss with one layer pruned at a time, at each amount of the grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from torch import nn

from tasks.contract import Finding, Product, Work
from tasks.cutsensitivity import run_cuts
from tasks.examples.data import read
from tasks.examples.fitting import Fitted, fit
from tasks.loading.models import Layer, Model, weight_in
from tasks.masks.criteria import Criterion, criterion_named
from tasks.masks.patterns import kept_of_group
from tasks.masks.selection import select_layers
from tasks.recipes import bad_recipe
from tasks.replaying.grids import Target, Trial, measured, model_with_loss
from tasks.replaying.trials import Trials, part_of, replaced
from tasks.statistics.coverage import expert_tokens, fitting
from tasks.statistics.gathering import Gathered, gathered, statistics_for
from tasks.statistics.hessians import hessians


def run(work: Work) -> Product:
    """One `sensitivity` row for each layer of this part and each amount; N:M has the one amount that it implies.

    Of a recipe that cuts, for each coupled group: see `tasks.cutsensitivity`.
    Errors: BadInput, if the data set does not fit the model, or the dense loss on it is not finite.
    """
    if "cut" in work.params:
        return run_cuts(work)
    if work.params["scope"] == "model":
        raise bad_recipe("scope model ranks all layers at once, and a trial prunes one of them")
    model = model_with_loss(work)
    selection = select_layers(model, work.params["pattern"], work.params["skip"])
    criterion = criterion_named(work.params["criterion"], work.seed)
    selection = fitting(selection, criterion, work.params["criterion"])
    findings = [*model.findings, *selection.findings] if work.part == 0 else []
    layers = part_of(selection.layers, work.part, work.parts)
    if not layers:
        return Product(tables={"sensitivity": ()}, findings=findings)
    examples = read(work.datasets["calibration"])
    fitted = fit(examples, model)
    findings.extend(fitted.findings)
    seen = Gathered()
    if criterion.needs_data or any(layer.place for layer in layers):
        least = int(work.params.get("min_tokens", 1))
        layers, seen = _calibrate(criterion, model, layers, fitted, least, findings)
    trials = _trials(model, work, criterion, layers, fitted, seen)
    module = model.module
    targets = [
        Target(
            columns={
                "layer": layer.name,
                "group": layer.name,
                "criterion": str(work.params["criterion"]),
                "pattern": trials.pattern,
                "parameters": layer.parameters,
            },
            weights=(layer.weight,),
            trials=partial(_trials_of, trials, module, layer),
        )
        for layer in layers
    ]
    rows, doubts = measured(model, examples, fitted, targets)
    return Product(tables={"sensitivity": rows}, findings=[*findings, *doubts, *seen.findings()])


def _trials_of(trials: Trials, module: nn.Module, layer: Layer) -> Iterator[Trial]:
    for amount, weight in trials.weights(layer, weight_in(module, layer)):
        yield amount, replaced(module, layer, weight)


def _calibrate(
    criterion: Criterion,
    model: Model,
    layers: Sequence[Layer],
    fitted: Fitted,
    least: int,
    findings: list[Finding],
) -> tuple[tuple[Layer, ...], Gathered]:
    """The layers that enough tokens reach, and what the criterion asks for about them.

    An expert that no token reaches would seem to stand any pruning, whatever it is scored by.
    """
    statistics = statistics_for(criterion, model, layers, fitted)
    findings.extend(expert_tokens(layers, statistics.tokens))
    for layer in layers:
        count = statistics.tokens.get(layer.name, 0)
        if count < least:
            why = (
                f"{count} calibration tokens reach it, fewer than {least}"
                if count
                else "no calibration example reaches it, so it has no scores"
            )
            findings.append(
                Finding(kind="skipped_layer", subject=layer.name, message=f"{why} and is not tried")
            )
    reached = tuple(layer for layer in layers if statistics.tokens.get(layer.name, 0) >= least)
    return reached, gathered(criterion, statistics, model, reached, fitted)


def _trials(
    model: Model, work: Work, criterion: Criterion, layers: Sequence[Layer], fitted: Fitted, seen: Gathered
) -> Trials:
    pattern = work.params["pattern"]
    groups = kept_of_group(pattern)
    return Trials(
        criterion=criterion,
        pattern=pattern,
        scope=work.params["scope"],
        amounts=work.params["grid"] if groups is None else [1 - groups[0] / groups[1]],
        seen_by=seen.of,
        matrices=hessians(model, layers, fitted) if criterion.reconstructs else None,
    )

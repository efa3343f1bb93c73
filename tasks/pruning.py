"""Effects. The prune task: scores, masks and writes a model, then re-opens the result and counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.amounts.dividing import divide
from tasks.amounts.promises import broken_promises, loss_over, losses_kept
from tasks.contract import Finding, Product, Row, Work
from tasks.examples.data import read
from tasks.examples.fitting import Fitted, fit
from tasks.loading.models import Layer, Model, check_copies, load, load_afresh, outline
from tasks.loading.weights import open_checkpoint, write_like
from tasks.masks.criteria import Criterion, criterion_named
from tasks.masks.patterns import block_of
from tasks.masks.selection import (
    Selection,
    in_stored_order,
    select_layers,
    stored_names,
    without_unreached,
)
from tasks.recipes import Recipe, bad_recipe, read_recipe
from tasks.recovering.recovery import Recovered, recover_
from tasks.statistics.calibration import Statistics
from tasks.statistics.coverage import expert_tokens, fitting
from tasks.statistics.gathering import Gathered, gathered, statistics_for
from tasks.structuring import run_cut
from tasks.writing.accounts import findings_of, measure, write_mark
from tasks.writing.changing import changes, masking
from tasks.writing.ranking import ranked
from tasks.writing.recount import ArtifactWrong
from tasks.writing.reopening import reopen, reopen_in_a_clean_process
from tasks.writing.rewriting import rewrite
from tasks.writing.sweeping import Outcome, findings_of_sweeps, hessians_as_stored, sweeping


def run(work: Work) -> Product:
    """Writes the pruned model to `work.output` and tells, per layer and in all, what the written files hold.

    Table `layers`: `pruned_parameters` are the zeros of the written tensor, those that were zero before included;
    `reconstruction_error` is the sum of squared scores of what went over that of all: with wanda the diagonal
    approximation of ||(W - W') X||^2 / ||W X||^2, with magnitude the same for inputs of equal norm; with sparsegpt it is
    that quotient itself; before recovery. Table `recoveries`: see `tasks.recovering.recovery`. Table `artifacts`: see `tasks.measuring.measures`
    for what flops count; masks leave them as they are.
    """
    if "cut" in work.params:
        return run_cut(work)
    recipe = read_recipe(work.params)
    if work.output is None:
        raise ValueError("a prune unit needs an output directory")
    model = outline(work.model)
    check_copies(model)
    selection = select_layers(model, recipe.pattern, recipe.skip)
    criterion = criterion_named(recipe.criterion, work.seed)
    if criterion.reconstructs:
        if block_of(recipe.pattern):
            raise bad_recipe(f"{recipe.criterion} prunes unstructured or N:M, not in blocks")
        if recipe.scope == "model":
            raise bad_recipe(f"{recipe.criterion} scores weights as it goes, so scope cannot be model")
    selection = fitting(selection, criterion, recipe.criterion)
    needs_statistics = criterion.needs_data or recipe.allocation == "owl"
    calibration = None
    measures = recipe.promises or bool(recipe.recover)
    if needs_statistics or measures:
        calibration = _calibrate(
            work, selection, criterion, needs_statistics, criterion.needs_loss or measures
        )
    statistics = calibration.statistics if calibration else None
    told: tuple[Finding, ...] = ()
    if statistics:
        told = (*statistics.findings, *expert_tokens(selection.layers, statistics.tokens))
        selection = without_unreached(selection, statistics.tokens, recipe.min_tokens)
    seen = _seen(criterion, calibration, in_stored_order(model, selection.layers))
    if recipe.scope == "model":
        allocation = ranked(recipe, criterion, model, selection.layers, seen.of)
    else:
        allocation = divide(recipe, model, selection.layers, statistics, work)
    outcomes: dict[str, Outcome] = {}
    matrices = None
    change = masking(recipe, criterion, seen.of)
    if criterion.reconstructs and calibration:
        matrices = hessians_as_stored(model, selection.layers, calibration.model, calibration.fitted)
        change = sweeping(recipe.pattern, recipe.mask_scope, matrices)
    file_findings = write_like(
        model.checkpoint,
        work.output,
        changes(model, selection.layers, recipe, change, allocation, outcomes),
    )
    recovered, retouched = _recover(work, recipe, selection, calibration)
    pruned = open_checkpoint(work.output)
    rows, artifact = measure(model, pruned, selection.layers, recipe, allocation, outcomes, retouched)
    promises: tuple[Finding, ...] = (*allocation.findings, *_reopened(work, recipe, model, selection, rows))
    if recipe.promises and calibration:
        losses = loss_over(calibration.model, calibration.fitted), _loss_of_written(work, calibration.fitted)
        artifact |= losses_kept(*losses, allocation.predicted_increase, allocation.lower_bound)
        promises += tuple(broken_promises(recipe, model, selection.layers, artifact))
    write_mark(work, rows, artifact)
    findings = (
        *model.findings,
        *selection.findings,
        *told,
        *file_findings,
        *findings_of(selection.layers, recipe, rows, outcomes, statistics, artifact),
        *seen.findings(),
        *(findings_of_sweeps(outcomes, matrices) if matrices else ()),
        *promises,
        *(recovered.findings if recovered else ()),
    )
    tables: dict[str, Sequence[Row]] = {"layers": rows, "artifacts": [artifact]}
    if recovered:
        tables["recoveries"] = recovered.rows
    return Product(tables=tables, has_artifact=True, findings=findings)


def _recover(
    work: Work, recipe: Recipe, selection: Selection, calibration: _Calibration | None
) -> tuple[Recovered | None, dict[str, str]]:
    """What recovery did, and the digests of the stored tensors that it wrote."""
    if not recipe.recover or calibration is None:
        return None, {}
    assert work.output is not None
    pruned = load_afresh(work.output, work.device)
    params = recipe.recover
    whole = [layer for layer in selection.layers if layer.place is None]  # experts keep what they have
    recovered = recover_(calibration.model, pruned, whole, calibration.fitted, params, work.seed)
    return recovered, rewrite(work.output, pruned, recovered.changed) if recovered.changed else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calibration:
    """The model that runs, its examples, and what they showed."""

    model: Model
    fitted: Fitted
    statistics: Statistics | None


def _calibrate(
    work: Work, selection: Selection, criterion: Criterion, needs_statistics: bool, needs_loss: bool
) -> _Calibration:
    if "calibration" not in work.datasets:
        raise bad_recipe("the criterion or allocation needs activations and there is no calibration data")
    model = load(work.model, work.device)
    fitted = fit(read(work.datasets["calibration"]), model, labelled=needs_loss)
    statistics = statistics_for(criterion, model, selection.layers, fitted) if needs_statistics else None
    return _Calibration(model=model, fitted=fitted, statistics=statistics)


def _reopened(
    work: Work, recipe: Recipe, model: Model, selection: Selection, rows: Sequence[Row]
) -> Iterator[Finding]:
    """Opens what was written as its users will; ArtifactWrong or BadInput if that is not the model that was meant."""
    assert work.output is not None
    again = outline(work.output)
    if (again.family, again.naming.stored) != (model.family, model.naming.stored):
        raise ArtifactWrong("the artifact's config and weights make another model than the dense one")
    if recipe.verify is None:
        return
    meant = {
        stored_names(model, layer)[0]: row["pruned_parameters"]
        for layer, row in zip(selection.layers, rows, strict=True)
        if layer.place is None or layer.place.index is None
    }
    found = (reopen_in_a_clean_process if recipe.verify == "process" else reopen)(work.output, list(meant))
    if found.zeros != meant:
        raise ArtifactWrong("the artifact, opened again, has other zeros than were counted")
    if not found.is_finite:
        message = "the pruned model answers NaN or infinity to a plain example"
        yield Finding(kind="non_finite_answer", subject="model", message=message)


def _loss_of_written(work: Work, fitted: Fitted) -> float:
    assert work.output is not None
    return loss_over(load_afresh(work.output, work.device), fitted)


def _seen(criterion: Criterion, calibration: _Calibration | None, layers: Sequence[Layer]) -> Gathered:
    if calibration is None or not criterion.needs_data:
        return Gathered()
    return gathered(criterion, calibration.statistics, calibration.model, layers, calibration.fitted)

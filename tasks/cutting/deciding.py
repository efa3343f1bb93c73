"""Effects. How much a recipe cuts where a latency, a budget or a quality says so, and whether what was written keeps to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.amounts.ladder import Search
from tasks.amounts.promises import loss_over, losses_kept, missed_budget, missed_quality
from tasks.contract import Finding, Work
from tasks.cutting.cutbudgets import amounts_for, counts_of
from tasks.cutting.cutrecipes import CutRecipe
from tasks.cutting.cuttiming import columns_of, search
from tasks.cutting.depth import Stack
from tasks.cutting.symmetry import Group
from tasks.cutting.worths import Worths, calibration_of
from tasks.examples.data import read
from tasks.examples.fitting import fit
from tasks.files.configs import ModelConfig
from tasks.loading.models import Model, load, load_afresh, outline


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What goes."""

    recipe: CutRecipe
    """With the shares that go."""
    timed: Search | None = None
    """How a latency decided it, if one did."""
    predicted_increase: float | None = None
    """What measured losses say that it costs, if they decided it."""
    findings: tuple[Finding, ...] = ()


def decide(
    work: Work,
    config: ModelConfig,
    recipe: CutRecipe,
    model: Model,
    groups: Sequence[Group],
    stack: Stack | None,
    worths: Worths,
) -> Decision:
    """All that the recipe cuts, or as little as its budget needs, or as much as its quality allows."""
    if recipe.latency is not None:
        timed, findings = search(work, config, recipe, groups, stack, worths)
        scaled = recipe.scaled(timed.chosen.factor) if timed else recipe
        return Decision(recipe=scaled, timed=timed, findings=findings)
    if recipe.budget is None and recipe.max_increase is None:
        return Decision(recipe=recipe)
    amounts = amounts_for(recipe, model, groups, stack, worths, work.inputs.get("sensitivity", ()))
    return Decision(recipe=amounts.recipe, predicted_increase=amounts.predicted_increase)


def promised(work: Work, decision: Decision) -> dict[str, Any]:
    """Columns of `artifacts`: how a latency was met, or what a cut was predicted to cost and what the written model loses."""
    if decision.timed:
        return columns_of(decision.timed)
    if decision.predicted_increase is None:
        return {}
    assert work.output is not None, "it was written"
    dense = load(work.model, work.device)
    fitted = fit(read(calibration_of(work)), dense)
    losses = loss_over(dense, fitted), loss_over(load_afresh(work.output, work.device), fitted)
    return losses_kept(*losses, decision.predicted_increase, decision.predicted_increase)


def missed(work: Work, decision: Decision, model: Model, artifact: Mapping[str, Any]) -> Iterator[Finding]:
    """A budget that what was written does not meet, and a loss that rose by more than was allowed."""
    assert work.output is not None, "it was written"
    recipe = decision.recipe
    if recipe.budget:
        what, share = recipe.budget
        left, dense = (sum(counts_of(what, one).values()) for one in (outline(work.output), model))
        yield from missed_budget(what, share, left, dense)
    if recipe.max_increase is not None:
        yield from missed_quality(recipe.max_increase, artifact)

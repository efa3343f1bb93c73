"""Effects. Cuts as little as is needed for a latency: times smaller models beside the dense one, in turns, before any is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.amounts.ladder import Search, findings_of, ladder, least_that_will_do
from tasks.contract import BadInput, Finding, Work
from tasks.cutting.choosing import choose_cut, sizes_of
from tasks.cutting.cutrecipes import CutRecipe
from tasks.cutting.depth import Stack
from tasks.cutting.probing import runs
from tasks.cutting.smaller import smaller_model
from tasks.cutting.symmetry import Group
from tasks.cutting.worths import Worths, calibration_of
from tasks.files.configs import ModelConfig
from tasks.latency import batch_of, blocks_of
from tasks.loading.models import load
from tasks.measuring.timing import Speed, speed_of


def search(
    work: Work,
    config: ModelConfig,
    recipe: CutRecipe,
    groups: Sequence[Group],
    stack: Stack | None,
    worths: Worths,
) -> tuple[Search | None, tuple[Finding, ...]]:
    """The factor of the recipe's shares that its latency needs; none where not a single unit can be cut.

    Timed is the model that would be written, on the node, device and threads of this unit, with its calibration data.
    """
    assert recipe.latency is not None, "asked only where the recipe has a budget of latency"
    rungs = ladder(lambda factor: sizes_of(recipe.scaled(factor), groups, stack))
    if not rungs:
        message = f"not a single unit can be cut, so a pass takes what it took, and {recipe.latency:g} of it was the most"
        return None, (Finding(kind="budget_missed", subject="latency", message=message),)
    dense = load(work.model, work.device)
    batch, _, smaller = batch_of(calibration_of(work), dense, recipe.timing)

    def time(factor: float) -> Speed | None:
        pruned = smaller_model(dense, config, choose_cut(recipe.scaled(factor), groups, stack, worths))
        if not runs(pruned):
            return None
        return speed_of(list(blocks_of(dense, pruned, batch, recipe.timing["repetitions"])))

    found = least_that_will_do(rungs, recipe.latency, time)
    if found is None:
        raise BadInput(
            "no cut meets the budget of latency",
            why="the model does not run with any of the sizes that were tried",
            do="Cut less, or set prune.round_to to 8 or 16, so that sizes stay multiples of it.",
        )
    return found, (*smaller, *findings_of(found))


def columns_of(search: Search) -> dict[str, Any]:
    """Columns of `artifacts`: what was measured of the cut that was chosen, and how many were timed."""
    speed = search.chosen.speed
    return {
        "dense_latency_seconds": speed.dense.median,
        "latency_seconds": speed.pruned.median,
        "latency_ratio": search.chosen.ratio,
        "latency_ratio_low": 1 / speed.high,
        "latency_ratio_high": 1 / speed.low,
        "latency_timings": len(search.timed),
    }

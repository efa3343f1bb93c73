"""Effects. The sensitivity task of a recipe that cuts: the real loss without some units of one coupled group, or some blocks.

How units are left out is not assumed. For each kind a model is really cut and built, and the dense one is brought to answer like
it: by taking the units out of its weights where they lie, or else by zeros in their place. What was borne out is what is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

from tasks.contract import Finding, Product, Work, raise_if_of_machine
from tasks.cutting.choosing import choose_cut, units_of
from tasks.cutting.cutrecipes import DEPTH, CutRecipe
from tasks.cutting.cuts import Cut
from tasks.cutting.depth import Stack, bypassed
from tasks.cutting.probing import SAME, answer_of, apart, in_float32, runs, sound_answer
from tasks.cutting.smaller import smaller_model, smaller_module
from tasks.cutting.symmetry import Group
from tasks.cutting.worths import worths_of
from tasks.examples.data import read
from tasks.examples.fitting import fit
from tasks.files.configs import ModelConfig
from tasks.loading.models import Model, outline
from tasks.replaying.grids import Target, measured, model_with_loss
from tasks.replaying.trials import part_of
from tasks.statistics.holding import holding

Sizes = Mapping[str, Mapping[str, Any]]
"""By the name of a module, its attributes that are others in the smaller model, such as how many experts it has."""
Leaving = Callable[[Model, Cut, Sizes], AbstractContextManager[None]]
"""Makes a dense model one without what is cut, for as long as the context lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """All units of a kind, and what the grid takes out of them."""

    name: str
    groups: tuple[Group, ...]
    stack: Stack | None
    cuts: tuple[tuple[Cut, Sizes], ...]
    """Of all groups at once, by the amounts that differ once they are rounded; ascending, from above 0."""


def run_cuts(work: Work) -> Product:
    """One `sensitivity` row for each coupled group of this part, kind and amount, and for the blocks as a whole.

    `pattern` is `cut:` and the kind; `amount` is what is left out of the group, rounded as the cut will be: the units of least
    worth, while the rest of the model is dense. `params["cut"]` has the kinds. A kind that cannot be left out of the dense
    model as a cut does it is a finding, and has no rows.
    """
    model = model_with_loss(work)
    config = model.built_from
    kinds, findings = _kinds(work, config)
    wide = in_float32(model)
    targets: list[Target] = []
    for kind in kinds:
        able, told = _running(wide, config, kind)
        findings += told
        if not able.cuts:
            continue
        leaving = _way(wide, config, able)
        if leaving is None:
            message = (
                "the dense model cannot be brought to answer as one without them does, so they are not tried"
            )
            findings.append(Finding(kind="inseparable_units", subject=kind.name, message=message))
        else:
            targets += _targets(model, able, str(work.params["criterion"]), leaving)
    mine = part_of(targets, work.part, work.parts)
    once = [*model.findings, *findings] if work.part == 0 else []
    if not mine:
        return Product(tables={"sensitivity": ()}, findings=once)
    examples = read(work.datasets["calibration"])
    fitted = fit(examples, model)
    rows, told = measured(model, examples, fitted, mine)
    return Product(tables={"sensitivity": rows}, findings=[*once, *fitted.findings, *told])


def _kinds(work: Work, config: ModelConfig) -> tuple[list[_Kind], list[Finding]]:
    params = work.params
    recipe = CutRecipe(
        criterion=params["criterion"], cut=dict.fromkeys(params["cut"], 1.0), round_to=params["round_to"]
    )
    empty = outline(work.model)
    groups, stack = units_of(empty, config, recipe)
    worths = worths_of(work, recipe.criterion, groups, stack)
    kinds, findings = [], [*worths.findings]
    for name in recipe.cut:
        places = [place for place, group in enumerate(groups) if group.axis.kind == name]
        own = tuple(groups[place] for place in places)
        their = replace(worths, units=tuple(worths.units[place] for place in places))
        blocks = stack if name == DEPTH else None
        cuts: dict[tuple[int, ...], Cut] = {}
        for amount in params["grid"]:
            cut = choose_cut(replace(recipe, cut={name: amount}), own, blocks, their)
            if any(_gone(cut)):
                cuts.setdefault(_gone(cut), cut)
            elif amount:
                message = f"{amount:g} of them takes out none, so it is not tried"
                findings.append(Finding(kind="zero_effect", subject=name, message=message))
        sized = tuple((cut, _sizes(empty, config, cut)) for cut in cuts.values())
        kinds.append(_Kind(name=name, groups=own, stack=blocks, cuts=sized))
    return [kind for kind in kinds if kind.cuts], findings


def _sizes(empty: Model, config: ModelConfig, cut: Cut) -> Sizes:
    dtype = next(empty.module.parameters()).dtype
    before = dict(empty.module.named_modules())
    found: dict[str, dict[str, Any]] = {}
    for path, part in smaller_module(config, cut, dtype).named_modules():
        old = vars(before[path])
        for name, value in vars(part).items():
            if type(value) in (int, tuple) and old.get(name, value) != value:
                found.setdefault(path, {})[name] = value
    return found


def _gone(cut: Cut) -> tuple[int, ...]:
    units = [choice.group.units - len(choice.kept[0]) for choice in cut.choices]
    return (*units, len(cut.removed_blocks))


def _running(wide: Model, config: ModelConfig, kind: _Kind) -> tuple[_Kind, list[Finding]]:
    """The kind with those cuts after which a model runs."""
    does_run = [runs(smaller_model(wide, config, cut)) for cut, _ in kind.cuts]
    findings = [
        Finding(
            kind="does_not_run",
            subject=kind.name,
            message=f"a model without {sum(_gone(cut))} units of all groups does not run, so it is not tried",
        )
        for (cut, _), is_sound in zip(kind.cuts, does_run, strict=True)
        if not is_sound
    ]
    return replace(kind, cuts=tuple(compress(kind.cuts, does_run))), findings


def _way(wide: Model, config: ModelConfig, kind: _Kind) -> Leaving | None:
    """What makes the dense model answer as the smallest of the cuts does, built and run."""
    cut, sizes = kind.cuts[-1]
    expected = sound_answer(smaller_model(wide, config, cut))
    for way in (_bypassed,) if kind.stack else (_taken_out, _emptied):
        try:
            with way(wide, cut, sizes):
                found = answer_of(wide)()
        except (
            Exception
        ) as error:  # where weights have other sizes than a model's code expects, it may fail in any manner
            raise_if_of_machine(error)
            continue
        if found.shape == expected.shape and apart(found, expected) <= SAME:
            return way
    return None


def _bypassed(model: Model, cut: Cut, sizes: Sizes) -> AbstractContextManager[None]:
    assert cut.stack is not None, "asked only where blocks are cut"
    return bypassed(model.module, cut.stack, cut.removed_blocks)


@contextmanager
def _taken_out(model: Model, cut: Cut, sizes: Sizes) -> Iterator[None]:
    """The units are cut out of the weights where they lie, and the modules that hold these are told of their sizes."""
    state = model.module.state_dict(keep_vars=True)
    names = {slot.dim.tensor for choice in cut.choices for slot in choice.group.slots}
    owners = {name.rpartition(".")[0] for name in names}
    told = [(vars(model.module.get_submodule(path)), sizes[path]) for path in owners if path in sizes]
    before = [(own, {name: own[name] for name in values}) for own, values in told]
    try:
        for own, values in told:
            own.update(values)
        with holding(model.module, {name: cut.sliced(name, state[name].detach()) for name in names}):
            yield
    finally:
        for own, values in before:
            own.update(values)


def _emptied(model: Model, cut: Cut, sizes: Sizes) -> AbstractContextManager[None]:
    """Zeros stand in the units' place."""
    return holding(model.module, cut.emptied(model.module.state_dict(keep_vars=True)))


def _targets(model: Model, kind: _Kind, criterion: str, leaving: Leaving) -> Iterator[Target]:
    sizes = {name: weight.numel() for name, weight in model.module.state_dict(keep_vars=True).items()}

    def target(name: str, weights: Iterable[str], cuts: Mapping[float, tuple[Cut, Sizes]]) -> Target:
        held = tuple(dict.fromkeys(weights))
        return Target(
            columns={
                "layer": name,
                "group": name,
                "criterion": criterion,
                "pattern": f"cut:{kind.name}",
                "parameters": sum(sizes[weight] for weight in held),
            },
            weights=held,
            trials=lambda: ((amount, leaving(model, *cut)) for amount, cut in cuts.items() if amount),
        )

    for place, group in enumerate(kind.groups):
        cuts = {
            1 - len(cut.choices[place].kept[0]) / group.units: (
                Cut(choices=(cut.choices[place],)),
                sizes_after,
            )
            for cut, sizes_after in kind.cuts
        }
        yield target(group.name, (slot.dim.tensor for slot in group.slots), cuts)
    if kind.stack:
        inside = [name for name in sizes if kind.stack.block_of(name) is not None]
        cuts = {len(pair[0].removed_blocks) / kind.stack.count: pair for pair in kind.cuts}
        yield target(kind.stack.name, inside, cuts)

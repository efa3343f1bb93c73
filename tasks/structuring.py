"""Effects. The prune task of a recipe that cuts: whole units are taken out, and what is left is a smaller dense model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from tasks.contract import BadInput, Finding, Product, Row, Work
from tasks.cutting.axes import shapes_of, with_changes
from tasks.cutting.choosing import choose_cut, units_of
from tasks.cutting.cutrecipes import DEPTH, CutRecipe, read_cut
from tasks.cutting.cuts import Cut
from tasks.cutting.deciding import decide, missed, promised
from tasks.cutting.depth import bypassed
from tasks.cutting.probing import SAME, answer_of, apart, in_float32, sound_answer
from tasks.cutting.resizing import Stored, write_anew
from tasks.cutting.smaller import smaller_module
from tasks.cutting.worths import calibration_of, worths_of
from tasks.examples.data import read
from tasks.examples.fitting import fit
from tasks.files.configs import CONFIG, MAX_CONFIG_BYTES, ModelConfig
from tasks.files.headers import open_regular
from tasks.files.strictjson import parse_object
from tasks.loading.models import Model, load, load_afresh, outline, prunable_layers
from tasks.masks.patterns import pruned_count
from tasks.measuring.measures import dense_flops, parameter_names
from tasks.recovering.recovery import Recovered, recover_
from tasks.statistics.holding import holding
from tasks.writing.accounts import write_mark
from tasks.writing.recount import ArtifactWrong, count_nonzero
from tasks.writing.reopening import reopen_in_a_clean_process
from tasks.writing.rewriting import rewrite


def run_cut(work: Work) -> Product:
    """Writes the smaller model to `work.output`, in the layout and under the names of the dense one.

    Table `layers`: one row a coupled group; `parameters` are those of all weights that hold a slice of it. The artifact
    is loaded again: every weight is the slice that was meant, bit by bit, and the model answers as the dense one does
    with the units left out, where taking them out can do that (else a finding says so).
    """
    recipe = read_cut(work.params)
    if work.output is None:
        raise ValueError("a prune unit needs an output directory")
    model = outline(work.model)
    config = model.built_from
    groups, stack = units_of(model, config, recipe)
    worths = worths_of(work, recipe.criterion, groups, stack)
    decision = decide(work, config, recipe, model, groups, stack, worths)
    cut = choose_cut(decision.recipe, groups, stack, worths)
    file_findings = _write(work, model, config, cut)
    fresh = load_afresh(work.output, work.device)
    _check_slices(work, fresh, cut)
    doubts = tuple(_separable(recipe, model, fresh, cut))
    recovered = _recover(work, fresh, cut)
    rows = list(_rows(model, recipe, cut))
    artifact = _artifact(model, work.output) | promised(work, decision)
    if work.params.get("verify") == "process":
        _check_apart(work.output, artifact)
    write_mark(work, rows, artifact)
    findings = (
        *model.findings,
        *worths.findings,
        *decision.findings,
        *missed(work, decision, model, artifact),
        *file_findings,
        *_doubts(decision.recipe, cut, artifact),
        *doubts,
        *(recovered.findings if recovered else ()),
    )
    tables: dict[str, Sequence[Row]] = {"layers": rows, "artifacts": [artifact]}
    if recovered:
        tables["recoveries"] = recovered.rows
    return Product(tables=tables, has_artifact=True, findings=findings)


def _write(work: Work, model: Model, config: ModelConfig, cut: Cut) -> tuple[Finding, ...]:
    """The smaller checkpoint; BadInput if config.json cannot say what is left."""
    assert work.output is not None
    state = load(work.model).module.state_dict(keep_vars=True)
    dtype = next(model.module.parameters()).dtype
    wanted = shapes_of(config, cut.changes, dtype)
    planned = _Planned(model=model, cut=cut, module=smaller_module(config, cut, dtype))
    left: dict[str, torch.Tensor] = {}
    for name, shape in wanted.items():
        origin = cut.origin(name)
        if origin not in state:
            _cannot_say(name, "the dense model has no such weight")
        weight = state[origin].detach()
        found = cut.sliced(origin, weight.to("meta"))
        if tuple(found.shape) != shape:
            _cannot_say(name, f"it would ask for shape {list(shape)}, and {list(found.shape)} is left")
        left[name] = found
    together = _made_together(model)
    for names in dict.fromkeys(together.get(name, (name,)) for name in left):
        planned.add({name: left[name] for name in names})
    text = _config_text(work, cut)

    def give(stored: str) -> torch.Tensor:
        origins = {name: cut.origin(name) for name in planned.sources[stored]}
        weights = {name: cut.sliced(origin, state[origin].detach()) for name, origin in origins.items()}
        return planned.stored_as(weights)[stored]

    return write_anew(model.checkpoint, work.output, planned.tensors, give, text)


@dataclass(slots=True, kw_only=True)
class _Planned:
    """The tensors to be stored, and which weights of the smaller model each is from."""

    model: Model
    cut: Cut
    module: Any
    tensors: list[Stored] = field(default_factory=list)
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Plans weights of the smaller model that are stored together, on the meta device."""
        for stored, part in self.stored_as(weights).items():
            self.tensors.append(Stored(name=stored, dtype=part.dtype, shape=tuple(part.shape)))
            self.sources[stored] = tuple(weights)

    def stored_as(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The stored tensors that a weight becomes, or several that are stored together."""
        (name, weight), *others = weights.items()
        direct = self.model.naming.stored.get(name)
        return dict.fromkeys(direct, weight) if direct and not others else taken_apart(self.module, weights)


def _made_together(model: Model) -> dict[str, tuple[str, ...]]:
    """Name of a weight -> all that are made of the same stored tensors, such as the parts of one projection."""
    found: dict[str, tuple[str, ...]] = {}
    for assembly in model.naming.assemblies:
        names = assembly.assemble(
            model.module, lambda name: torch.empty(model.checkpoint.entry(name).shape, device="meta")
        )
        found.update(dict.fromkeys(names, tuple(names)))
    return found


def taken_apart(module: Any, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights that transformers makes of stored tensors, all of those that it makes of the same ones -> these tensors."""
    from transformers.core_model_loading import revert_weight_conversion

    found: dict[str, torch.Tensor] = revert_weight_conversion(module, dict(weights))
    return found


def _config_text(work: Work, cut: Cut) -> str:
    with open_regular(work.model / CONFIG) as stream:
        data = stream.read(MAX_CONFIG_BYTES + 1)
    values = parse_object(
        data, what="the model's config", file=CONFIG, max_bytes=MAX_CONFIG_BYTES, may_be_infinite=True
    )
    return json.dumps(with_changes(values, cut.changes), indent=2, ensure_ascii=False) + "\n"


def _check_slices(work: Work, fresh: Model, cut: Cut) -> None:
    """Raises ArtifactWrong unless the model that was loaded again has the slices that were meant, bit by bit."""
    dense = load(work.model, work.device).module.state_dict(keep_vars=True)
    for name, weight in fresh.module.state_dict(keep_vars=True).items():
        origin = cut.origin(name)
        meant = cut.sliced(origin, dense[origin].detach())
        if meant.dtype != weight.dtype or not torch.equal(meant.to(weight.device), weight.detach()):
            raise ArtifactWrong(f"{name} is not what was to be left of {origin}")


def _separable(recipe: CutRecipe, model: Model, fresh: Model, cut: Cut) -> Iterator[Finding]:
    """Whether the smaller model answers as the dense one with zeros in place of what went."""
    wide, small = in_float32(model), in_float32(fresh)
    found = sound_answer(small)
    if not bool(torch.isfinite(found).all()):
        raise ArtifactWrong("the smaller model answers with NaN or infinity")
    if "experts" in recipe.cut:
        return  # what an expert is chosen by has no value at which it never is
    emptied = cut.emptied(wide.module.state_dict(keep_vars=True))
    with torch.no_grad(), holding(wide.module, emptied):
        if cut.stack:
            with bypassed(wide.module, cut.stack, cut.removed_blocks):
                expected = answer_of(wide)()
        else:
            expected = answer_of(wide)()
    distance = apart(found, expected)
    if distance > SAME:
        message = (
            f"without its units the model answers otherwise than with zeros in their place (by {distance:.2g} of the largest "
            "answer): something, such as a norm, is taken over all of them, so the scores tell only part of what it costs"
        )
        yield Finding(kind="inseparable_units", subject=", ".join(recipe.cut), message=message)


def _check_apart(output: Path, artifact: Mapping[str, Any]) -> None:
    """Opens the artifact once more, in a process that shares nothing with this one."""
    found = reopen_in_a_clean_process(output, ())
    if not found.is_finite:
        raise ArtifactWrong("in a clean process the smaller model answers with NaN or infinity")
    if found.parameters != artifact["parameters"]:
        raise ArtifactWrong(
            f"in a clean process it has {found.parameters} parameters, and {artifact['parameters']} were counted"
        )


def _recover(work: Work, fresh: Model, cut: Cut) -> Recovered | None:
    """What the recipe's steps of recovery did to the smaller model, which is written again."""
    params = work.params.get("recover")
    if not params:
        return None
    assert work.output is not None
    dense = load(work.model, work.device)
    fitted = fit(read(calibration_of(work)), dense)
    layers = prunable_layers(fresh.module)
    recovered = recover_(dense, fresh, layers, fitted, params, work.seed, cut)
    if recovered.changed:
        rewrite(work.output, fresh, recovered.changed)
    return recovered


def _rows(model: Model, recipe: CutRecipe, cut: Cut) -> Iterator[Row]:
    sizes = {name: weight.numel() for name, weight in model.module.state_dict(keep_vars=True).items()}
    for choice in cut.choices:
        group = choice.group
        total = sum(sizes[slot.dim.tensor] for slot in group.slots)
        kept = len(choice.kept[0])
        yield {
            "layer": group.name,
            "parameters": total,
            "pruned_parameters": total - total * kept // group.units,
            "amount_asked": recipe.cut[group.axis.kind],
            "amount": 1 - kept / group.units,
            "reconstruction_error": choice.error,
        }
    if cut.stack:
        inside = [name for name in sizes if cut.stack.block_of(name) is not None]
        gone = [name for name in inside if cut.stack.block_of(name) in cut.removed_blocks]
        yield {
            "layer": cut.stack.name,
            "parameters": sum(sizes[name] for name in inside),
            "pruned_parameters": sum(sizes[name] for name in gone),
            "amount_asked": recipe.cut[DEPTH],
            "amount": len(cut.removed_blocks) / cut.stack.count,
            "reconstruction_error": None,
        }


def _artifact(model: Model, output: Path) -> dict[str, Any]:
    small = outline(output)
    before, after, pruned = parameter_names(model), parameter_names(small), small.checkpoint
    return {
        "dense_bytes": model.checkpoint.bytes,
        "bytes": pruned.bytes,
        "dense_parameters": sum(model.checkpoint.entry(name).elements for name in before),
        "parameters": sum(pruned.entry(name).elements for name in after),
        "nonzero_parameters": count_nonzero(pruned, after),
        "dense_flops": dense_flops(model),
        "flops": dense_flops(small),
        "runtime": "any",
    }


def _doubts(recipe: CutRecipe, cut: Cut, artifact: Mapping[str, Any]) -> Iterator[Finding]:
    """What stayed although it was to go, and flops that are not known."""
    seen: set[int] = set()
    for choice in cut.choices:
        axis = choice.group.axis
        if id(axis) in seen:
            continue
        seen.add(id(axis))
        kept = axis.count * len(choice.kept[0]) // choice.group.units
        yield from _rounded(axis.name, recipe.cut[axis.kind], axis.count, kept, axis.least)
    if cut.stack:
        yield from _rounded(cut.stack.key, recipe.cut[DEPTH], cut.stack.count, len(cut.blocks))
    if artifact["flops"] is None:
        message = "the model cannot be traced without data, so its flops are not known"
        yield Finding(kind="unknown_flops", subject="model", message=message)


def _rounded(name: str, share: float, count: int, kept: int, least: int = 1) -> Iterator[Finding]:
    if kept == count and share > 0:
        message = f"{share:g} of {count} takes out none of them"
        if pruned_count(share, count):
            message += ", since the number that stays is rounded up (round_to, and what its groups divide by)"
        yield Finding(kind="zero_effect", subject=name, message=message)
    elif count - pruned_count(share, count) < least:
        message = (
            f"{share:g} of {count} were to go; {kept} stay, since the model cannot do with fewer than {least}"
        )
        yield Finding(kind="kept_least", subject=name, message=message)


def _cannot_say(tensor: str, why: str) -> NoReturn:
    raise BadInput(
        "the model cannot be cut",
        why=f"config.json cannot say what is left: {why}",
        do="Cut something else, or less.",
        tensor=tensor,
    )

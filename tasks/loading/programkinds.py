"""Pure. What kind of model a program of torch.export is, as far as its inputs and its answer tell."""

from __future__ import annotations

from typing import Any

from tasks.files.archives import PROGRAM, refuse
from tasks.files.program import Program
from tasks.loading.families import READS_TEXT

_FLOATS = frozenset({6, 7, 8, 13})
_LONG = 5
_TEXT_INPUTS = frozenset({"input_ids", "attention_mask"})


def family_of(program: Program) -> str:
    """One of `tasks.loading.families`, or nothing where the shapes fit none."""
    first = next(iter(program.inputs.values()))
    answer = program.values.get(program.answer)
    if answer is None or len(answer.sizes) not in (2, 3):
        return ""
    is_wide = answer.sizes[-1] != 1
    match first.dtype, len(first.sizes), len(answer.sizes):
        case dtype, 4, 2 if dtype in _FLOATS:
            return "image_classifier" if is_wide else "image_regressor"
        case dtype, 2, 2 if dtype in _FLOATS:
            return "feature_classifier" if is_wide else "feature_regressor"
        case dtype, 2, 2 if dtype == _LONG:
            return "text_classifier" if is_wide else "text_regressor"
        case dtype, 2, 3 if dtype == _LONG:
            return "causal_lm"
    return ""


def settings_of(program: Program) -> dict[str, Any]:
    """What a config.json would say of sizes that are fixed in the program."""
    sizes = next(iter(program.inputs.values())).sizes
    answer = program.values.get(program.answer)
    found: dict[str, Any] = {}
    if answer is not None and answer.sizes:
        found["num_labels"] = answer.sizes[-1]
    match sizes:
        case (_, channels, height, width):
            found |= {"num_channels": channels, "image_size": (height, width)}
        case (_, length):
            found |= {"input_size": length}
            most = program.most.get(length) if isinstance(length, str) else length
            if most is not None:
                found["max_position_embeddings"] = most
    known = {key: value for key, value in found.items() if not isinstance(value, str)}
    return {
        key: value
        for key, value in known.items()
        if key != "image_size" or all(type(side) is int for side in value)
    }


def check_inputs(program: Program, family: str) -> None:
    """Errors: BadInput, if a program of this family takes other inputs than such a model is given."""
    names = program.inputs.keys()
    if family in READS_TEXT:
        if "input_ids" not in names or not names <= _TEXT_INPUTS:
            why = f"it reads {', '.join(sorted(names))[:200]}, and texts come as input_ids and attention_mask"
            refuse(PROGRAM, why, do="Name its arguments so.")
        if family != "causal_lm" and "attention_mask" not in names:
            refuse(PROGRAM, "texts of unequal length need an attention_mask, which it does not take")
        if any(isinstance(size, int) for tensor in program.inputs.values() for size in tensor.sizes):
            why = "it was exported for texts of one length, or for batches of one size"
            refuse(
                PROGRAM,
                why,
                do="Let both vary: dynamic_shapes={'input_ids': {0: Dim('batch'), 1: Dim('tokens')}, …}.",
            )
    elif len(names) != 1:
        refuse(PROGRAM, f"it reads {len(names)} tensors, and a {family} is given one")

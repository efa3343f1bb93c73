"""Effects. Reads the examples of one split of a data set; knows nothing of models or torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contract import BadInput, Dataset
from tasks.examples.rows import Place, Values, read_rows

MAX_EXAMPLES = 1_000_000
MAX_TOTAL_BYTES = 2**30
"""Of the texts or numbers held at once; a larger split is read in part, by `samples`."""
MAX_CHOICES = 64
MAX_SLICE_NAME = 200
_SHOWN = 20  # split names in an error


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row of the split, as its file says it."""

    number: int
    """Index in the split, in file order, from 0."""
    place: Place
    slices: Mapping[str, str]
    """Column -> value as text."""
    text: str | None = None
    inputs: NDArray[np.float32] | None = None
    label: int | float | str | tuple[float, ...] | None = None
    """A class's number or name, or the number or numbers that a regression is to answer; of choices, the right one's number."""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """The examples of one split, in file order; never empty."""

    dataset: Dataset
    members: tuple[Example, ...]

    @property
    def file(self) -> str:
        """As it stands in errors."""
        return str(self.dataset.path)


def read(dataset: Dataset) -> Examples:
    """The first `samples` rows whose column `split` is `dataset.split`; without that column only `all` is a split.

    Errors: BadInput, naming the file and the line or row.
    """
    if dataset.samples is not None and dataset.samples < 1:
        raise BadInput(
            "no example is asked for",
            why=f"samples is {dataset.samples}",
            do="Use 1 or more.",
            file=str(dataset.path),
        )
    content = {"text": ("text",), "arrays": ("inputs",), "choices": ("text", "choices")}[dataset.kind]
    columns = list(dict.fromkeys([*content, "label", "split", *dataset.slices]))
    members: list[Example] = []
    splits: dict[str, None] = {}
    has_splits: bool | None = None
    held = 0
    for place, values in read_rows(dataset.path, columns):
        if has_splits is None:
            has_splits = "split" in values
        split = _split_of(values, place, dataset, has_splits)
        splits.setdefault(split)
        if split != dataset.split:
            continue
        example = _example(len(members), place, values, dataset)
        held += _bytes_of(example)
        if len(members) == MAX_EXAMPLES or held > MAX_TOTAL_BYTES:
            raise place.refusal(
                "the data set is too large",
                why=f"it has more than {MAX_EXAMPLES} examples, or more than {MAX_TOTAL_BYTES} bytes of them",
                do="Set samples to read the first ones only.",
            )
        members.append(example)
        if len(members) == dataset.samples:
            break
    if not members:
        raise _nothing(dataset, tuple(splits))
    return Examples(dataset=dataset, members=tuple(members))


def _split_of(values: Values, place: Place, dataset: Dataset, has_splits: bool) -> str:
    if ("split" in values) != has_splits:
        raise place.refusal(
            "the data set has a split column in some rows only",
            why="the column split is missing" if has_splits else "the rows before it have no column split",
            do="Give every row a split, or none.",
        )
    if has_splits:
        split = values["split"]
        if not isinstance(split, str):
            raise place.refusal(
                "a split has no name", why=f"split is {split!r:.80}, not text", do="Use text."
            )
        return split
    if dataset.split != "all":
        raise BadInput(
            f"the data set has no split {dataset.split!r}",
            why="it has no column split, so that all its rows are the one split `all`",
            do="Ask for the split all, or add the column split.",
            file=str(dataset.path),
        )
    return "all"


def _nothing(dataset: Dataset, splits: tuple[str, ...]) -> BadInput:
    file = str(dataset.path)
    if not splits:
        return BadInput("the data set is empty", why="it has no rows", do="Add examples.", file=file)
    known = ", ".join(repr(name[:80]) for name in sorted(splits)[:_SHOWN])
    more = f" and {len(splits) - _SHOWN} more" if len(splits) > _SHOWN else ""
    return BadInput(
        f"the data set has no split {dataset.split!r}",
        why=f"its splits are {known}{more}",
        do="Ask for one of them.",
        file=file,
    )


def _example(number: int, place: Place, values: Values, dataset: Dataset) -> Example:
    slices = {name: _slice(values, name, place) for name in dataset.slices}
    label = _label(values, place)
    if dataset.kind == "choices":
        choices = _choices(values, place)
        return Example(
            number=number,
            place=place,
            slices=slices,
            text=_text(values, place),
            label=_right(label, choices, place),
            choices=choices,
        )
    if dataset.kind == "text":
        text = _text(values, place)
        return Example(number=number, place=place, slices=slices, text=text, label=label)
    inputs = _inputs(values, place, dataset)
    return Example(number=number, place=place, slices=slices, inputs=inputs, label=label)


def _label(values: Values, place: Place) -> int | float | str | tuple[float, ...] | None:
    label = values.get("label")
    if isinstance(label, np.ndarray):
        label = label.tolist()
    if label is None or isinstance(label, str):
        return label
    numbers: list[Any] = label if isinstance(label, list) else [label]
    if not numbers or not all(map(_is_number, numbers)):
        raise place.refusal(
            "a label is neither a class nor a number",
            why=f"label is {label!r:.80}, neither a whole number nor text, nor finite numbers",
            do="Use the class's number or its name in the model's label2id, or the numbers to predict.",
        )
    found: tuple[float, ...] = tuple(numbers)
    return found if isinstance(label, list) else found[0]


def _choices(values: Values, place: Place) -> tuple[str, ...]:
    found = _required(values, "choices", place)
    is_list = isinstance(found, list) and all(isinstance(choice, str) and choice for choice in found)
    if not is_list or not 2 <= len(found) <= MAX_CHOICES or len(set(found)) < len(found):
        raise place.refusal(
            "a question has no answers to choose from",
            why=f"choices is {found!r:.80}, and not a list of 2 to {MAX_CHOICES} different texts",
            do="Use JSON lines, and give each question its answers.",
        )
    try:
        "".join(found).encode()
    except UnicodeEncodeError as error:
        raise place.refusal(
            "a choice is no text", why="it holds half a surrogate pair", do="Write whole characters."
        ) from error
    return tuple(found)


def _right(label: Any, choices: Sequence[str], place: Place) -> int:
    if isinstance(label, str) and label in choices:
        return choices.index(label)
    if not isinstance(label, int) or not 0 <= label < len(choices):
        raise place.refusal(
            "a question has no right answer",
            why=f"label is {label!r:.80}, neither one of its choices nor a number below {len(choices)}",
            do="Name the right choice, or its place among them, from 0.",
        )
    return label


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _required(values: Values, name: str, place: Place) -> Any:
    if name not in values:
        raise place.refusal(
            f"the data set has no column {name!r}",
            why=f"the column {name!r} is missing",
            do="Add it to every row, or correct the data set's kind or slices.",
        )
    return values[name]


def _slice(values: Values, name: str, place: Place) -> str:
    value = _required(values, name, place)
    match value:
        case str():
            shown = value
        case bool():
            shown = "true" if value else "false"
        case int():
            shown = str(value)
        case float() if math.isfinite(value):
            shown = repr(value)
        case _:
            raise place.refusal(
                "a slice has no name",
                why=f"{name} is {value!r:.80}, not text or a number",
                do="Give every row a value; `none` is one.",
            )
    if len(shown) > MAX_SLICE_NAME:
        raise place.refusal(
            "a slice's name is too long",
            why=f"{name} has {len(shown)} characters, more than {MAX_SLICE_NAME}",
            do="Slice by a column that names groups.",
        )
    return shown


def _text(values: Values, place: Place) -> str:
    text = _required(values, "text", place)
    if not isinstance(text, str):
        raise place.refusal(
            "an example has no text", why=f"text is {text!r:.80}", do="Use text in every row."
        )
    return text


def _inputs(values: Values, place: Place, dataset: Dataset) -> NDArray[np.float32]:
    inputs = _required(values, "inputs", place)
    if not isinstance(inputs, np.ndarray):
        raise place.refusal(
            "an example has no numbers",
            why=f"inputs is {type(inputs).__name__}, not a list of floats in a Parquet file",
            do="Use Parquet with the float list column inputs.",
        )
    if dataset.shape and inputs.size != math.prod(dataset.shape):
        raise place.refusal(
            "an example does not have the data set's shape",
            why=f"inputs has {inputs.size} values, but shape {list(dataset.shape)} has {math.prod(dataset.shape)}",
            do="Correct the shape or the row.",
        )
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused below
        numbers = inputs.astype(np.float32)
    if not np.isfinite(numbers).all():
        where = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise place.refusal(
            "an example is not finite",
            why=f"inputs[{where}] is {inputs[where]}, which is missing, NaN, infinite or too large for float32",
            do="Correct or drop the row.",
        )
    return numbers.reshape(tuple(dataset.shape) or (-1,))


def _bytes_of(example: Example) -> int:
    label = 32 * len(example.label) if isinstance(example.label, tuple) else 0
    if example.inputs is not None:
        return label + example.inputs.nbytes
    return label + 4 * len(example.text or "")

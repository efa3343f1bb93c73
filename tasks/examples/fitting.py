"""Effects. Fits examples to a model, or refuses them: kind, labels, shapes and tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contract import BadInput, Finding
from tasks.examples.asking import Ids, masked_tokens, next_tokens
from tasks.examples.data import Example, Examples
from tasks.examples.tokenizing import Tokens, longest_text, mask_token, tokenize
from tasks.loading.families import CAUSAL_LM, MASKED_LM, READS_FEATURES, READS_TEXT, answer_of
from tasks.loading.models import Model

_SHOWN = 10  # lines in a finding, labels in an error
_LARGEST = float(np.finfo(np.float32).max)


Label = int | tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One example as the model sees it."""

    number: int
    """Of the example in its split."""
    slices: Mapping[str, str]
    content: NDArray[Any]
    """Token ids, or float32 of the data set's shape."""
    label: Label | None = None
    """A class, or what a regression is to answer."""
    targets: Ids | None = None
    """Of a text, for a language model: what each position is to predict (see `tasks.examples.asking`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Examples that fit a model, in file order; never empty."""

    items: tuple[Item, ...]
    findings: tuple[Finding, ...] = ()


def fit(examples: Examples, model: Model, *, labelled: bool = True) -> Fitted:
    """The examples as the model sees them; a text of too few tokens is left out, with a finding.

    `labelled=False` looks at no label, right or wrong.
    Errors: BadInput, naming the file and the line or row that does not fit.
    """
    kind = "text" if model.family in READS_TEXT else "arrays"
    if examples.dataset.kind != kind:
        raise BadInput(
            "the data set does not fit the model",
            why=f"a model of the family {model.family} reads {kind}, and the data set's kind is {examples.dataset.kind}",
            do="Match the recipe with other models, or give it another data set.",
            file=examples.file,
        )
    labels = _labels(examples.members, model, labelled)
    if kind == "text":
        return _fit_texts(examples, model, labels)
    expected = expected_shape(model)
    return Fitted(
        items=tuple(
            _item(example, _array(example, expected), label)
            for example, label in zip(examples.members, labels, strict=True)
        )
    )


def _item(example: Example, content: NDArray[Any], label: Label | None, targets: Ids | None = None) -> Item:
    return Item(number=example.number, slices=example.slices, content=content, label=label, targets=targets)


def _asking(model: Model) -> Callable[[Tokens, int], tuple[Ids, Ids | None]]:
    """(a text's tokens, its number) -> (what the model is given, what it is asked for)."""
    if model.family == MASKED_LM:
        mask = mask_token(model)
        return lambda text, number: masked_tokens(text.ids, text.is_special, mask, number)
    if model.family == CAUSAL_LM:
        return lambda text, _: (text.ids, next_tokens(text.ids))
    return lambda text, _: (text.ids, None)


def _fit_texts(examples: Examples, model: Model, labels: Sequence[Label | None]) -> Fitted:
    least = 2 if model.family == CAUSAL_LM else 1
    tokens = tokenize(examples.members, model)
    asked = _asking(model)
    items: list[Item] = []
    skipped: list[str] = []
    for example, text, label in zip(examples.members, tokens, labels, strict=True):
        size = len(text.ids) if model.family != MASKED_LM else int((~text.is_special).sum())
        if size < least:
            skipped.append(str(example.place))
        else:
            content, targets = asked(text, example.number)
            items.append(_item(example, content, label, targets))
    cut = sum(text.is_cut for text in tokens)
    findings = (*_skips(examples, skipped, least), *_cuts(examples, cut, longest_text(model)))
    if not items:
        raise BadInput(
            "no text can be used", why=findings[0].message, do="Add longer texts.", file=examples.file
        )
    return Fitted(items=tuple(items), findings=findings)


def _skips(examples: Examples, places: Sequence[str], least: int) -> Iterator[Finding]:
    if places:
        shown = ", ".join(places[:_SHOWN]) + (", …" if len(places) > _SHOWN else "")
        message = f"{len(places)} of {len(examples.members)} texts have fewer than {least} tokens and are left out: {shown}"
        yield Finding(kind="skipped_examples", subject=examples.dataset.path.name, message=message)


def _cuts(examples: Examples, cut: int, limit: int) -> Iterator[Finding]:
    if cut:
        message = (
            f"{cut} of {len(examples.members)} texts are longer than {limit} tokens; their rest is left out"
        )
        yield Finding(kind="truncated_examples", subject=examples.dataset.path.name, message=message)


def _labels(examples: Sequence[Example], model: Model, labelled: bool) -> list[Label | None]:
    answer = answer_of(model.family)
    if answer in ("tokens", "embedding") or (answer == "numbers" and not labelled):
        return [None] * len(examples)
    if answer == "numbers":
        return [_target(example, int(getattr(model.config, "num_labels", 1))) for example in examples]
    classes = getattr(model.config, "num_labels", None)
    problem = getattr(model.config, "problem_type", None) or "single_label_classification"
    if not isinstance(classes, int) or classes < 2 or problem != "single_label_classification":
        raise BadInput(
            "the model does not choose one of several classes",
            why=f"num_labels is {classes} and problem_type is {problem!r:.80}",
            do="Use a classifier with two classes or more.",
            file="config.json",
        )
    if not labelled:
        return [None] * len(examples)
    names = getattr(model.config, "label2id", None)
    numbers = names if isinstance(names, dict) else {}
    return [_label(example, numbers, classes) for example in examples]


def _target(example: Example, outputs: int) -> tuple[float, ...]:
    """The numbers that a regression is to answer: one of each example, or a list of as many as the model gives."""
    label = example.label
    values = label if isinstance(label, tuple) else (label,)
    numbers = [float(value) for value in values if isinstance(value, int | float) and abs(value) < _LARGEST]
    if len(numbers) < len(values):
        raise example.place.refusal(
            "an example has no label" if label is None else "a label is no number",
            why="label is missing"
            if label is None
            else f"label is {label!r:.80}, and the model predicts numbers",
            do="Use a number, or a list of them for a model of several outputs.",
        )
    if len(values) != outputs:
        raise example.place.refusal(
            "a label has another number of values than the model",
            why=f"label holds {len(values)}, and the model's num_labels is {outputs}",
            do=f"Give each example {outputs}.",
        )
    return tuple(numbers)


def _label(example: Example, numbers: Mapping[str, Any], classes: int) -> int:
    label = numbers.get(example.label) if isinstance(example.label, str) else example.label
    if label is None:
        is_missing = example.label is None
        known = ", ".join(repr(name)[:80] for name in [*numbers][:_SHOWN])
        raise example.place.refusal(
            "an example has no label" if is_missing else "a label is unknown to the model",
            why="label is missing" if is_missing else f"{example.label!r:.80} is not in the model's label2id",
            do=f"Use a whole number below {classes}{f', or a name such as {known}' if known else ''}.",
        )
    if isinstance(label, float | tuple):
        raise example.place.refusal(
            "a label is no class",
            why=f"label is {label!r:.80}, neither a whole number nor text",
            do="Use the class's number or its name in the model's label2id.",
        )
    if not isinstance(label, int) or not 0 <= label < classes:
        raise example.place.refusal(
            "a label is out of range",
            why=f"label is {label!r:.40}, and the model has {classes} classes",
            do=f"Use 0 to {classes - 1}.",
        )
    return label


def expected_shape(model: Model) -> tuple[int | None, ...]:
    """What one example must measure in each dimension; None where the model takes any size."""
    if model.family in READS_FEATURES:
        return (getattr(model.config, "input_size", None),)
    # only a model with a position for each patch is bound to a size; others just note that of their training
    fixed = [part.image_size for part in model.module.modules() if hasattr(part, "image_size")]
    sides: Any = fixed[0] if fixed else None
    height, width = sides if isinstance(sides, list | tuple) else (sides, sides)
    return (getattr(model.config, "num_channels", None), height, width)


def _array(example: Example, expected: tuple[int | None, ...]) -> NDArray[np.float32]:
    inputs = example.inputs
    assert inputs is not None
    fits = len(inputs.shape) == len(expected) and all(
        wanted in (None, size) for size, wanted in zip(inputs.shape, expected, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        raise example.place.refusal(
            "an example does not have the model's shape",
            why=f"it has shape {list(inputs.shape)}, and the model reads [{wanted}]",
            do="Let the data set say so (`shape`), or use data made for the model.",
        )
    return inputs

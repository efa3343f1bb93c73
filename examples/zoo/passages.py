"""Pure. Python's own manual, as it comes with CPython, cut into labelled passages without overlap."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pydoc_data.topics import topics

GROUPS: Mapping[str, str] = {
    "statements": "assert assignment async augassign break class compound continue del else for function global if"
    " import in nonlocal pass raise return try while with",
    "expressions": "atom-identifiers atom-literals attribute-references await binary bitwise booleans calls"
    " comparisons conversions dict exprlists floating identifiers imaginary integers lambda lists numbers"
    " operator-summary power shifting slicings subscriptions truth unary yield",
    "special methods": "attribute-access callable-types context-managers customization id-classes numeric-types"
    " sequence-types specialattrs specialnames",
    "types": "bltin-code-objects bltin-ellipsis-object bltin-null-object bltin-type-objects objects types"
    " typesfunctions typesmapping typesmethods typesmodules typesseq typesseq-mutable",
    "strings": "formatstrings string-methods strings",
    "running code": "debugger dynamic-features exceptions execmodel naming",
}
"""What a passage is about -> the topics of `pydoc` that it is taken from."""

SECTION_OF: Mapping[str, str] = {
    "statements": "statements",
    "special methods": "objects",
    "types": "objects",
    "strings": "strings",
}
"""The groups that the section classifier tells apart, and the section each belongs to."""

_SHORTEST = 20  # a paragraph of fewer letters is a heading or a rule
_TO_ASCII = str.maketrans({"–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "…": "..."})


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A piece of the manual of a fixed number of letters (ASCII, so as many bytes)."""

    text: str
    topic: str
    split: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Passages to test and calibrate with, and the text that is left to train on, by topic."""

    passages: tuple[Passage, ...]
    training: Mapping[str, tuple[str, ...]]


def split_passages(length: int, chunk: int, test: int, calibration: int, seed: int = 0) -> Splits:
    """Cut each topic's text into chunks of `chunk` passages; draw `test` and `calibration` chunks of every topic.

    A paragraph that the manual repeats counts where it first stands, so no split holds what another one does.
    Errors: ValueError where this Python's manual has too little text.
    """
    draw = random.Random(seed)
    held: list[Passage] = []
    training = {}
    for topic, text in _texts().items():
        size = length * chunk
        chunks = [text[start : start + size] for start in range(0, len(text) - size + 1, size)]
        if len(chunks) <= test + calibration:
            raise ValueError(
                f"the manual of this Python has too little text about {topic} to train and to test"
            )
        order = list(range(len(chunks)))
        draw.shuffle(order)
        roles = dict.fromkeys(order[:test], "test")
        roles |= dict.fromkeys(order[test : test + calibration], "calibration")
        for place, split in sorted(roles.items()):
            held += [Passage(text=part, topic=topic, split=split) for part in _parts(chunks[place], length)]
        training[topic] = tuple(part for place, part in enumerate(chunks) if place not in roles)
    return Splits(passages=tuple(held), training=training)


def _texts() -> Mapping[str, str]:
    """Group -> its paragraphs in the manual's order, each paragraph only where it first stands."""
    seen: set[str] = set()
    return {
        group: "\n\n".join(_new_paragraphs([topics[name] for name in names.split() if name in topics], seen))
        for group, names in GROUPS.items()
    }


def _new_paragraphs(texts: Sequence[str], seen: set[str]) -> Iterator[str]:
    for text in texts:
        for paragraph in re.split(r"\n\s*\n", text.translate(_TO_ASCII)):
            plain = paragraph.encode("ascii", "ignore").decode().strip("\n")
            same = " ".join(plain.split())
            if len(same) >= _SHORTEST and same not in seen:
                seen.add(same)
                yield plain


def _parts(text: str, length: int) -> list[str]:
    return [text[start : start + length] for start in range(0, len(text), length)]

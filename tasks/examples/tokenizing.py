"""Effects. Turns text into a model's tokens with its tokenizer.json, which is data: no tokenizer's code is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tasks.contract import BadInput
from tasks.examples.asking import Ids
from tasks.examples.data import Example
from tasks.files.configs import CONFIG
from tasks.files.headers import open_regular
from tasks.loading.families import CAUSAL_LM
from tasks.loading.models import Model

MAX_TOKENS = 2048
"""Of one text; what is longer is cut, and said so."""
MAX_TOKENIZER_BYTES = 256 * 2**20
FILE = "tokenizer.json"
MASKS = "[MASK]", "<mask>"
"""What BERT, RoBERTa and those after them call it."""
_NO_LIMIT = (None, -1)  # XLNet's way of saying that its positions are relative

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """One text as the model sees it."""

    ids: Ids
    is_special: NDArray[np.bool_]
    """Put there by the tokenizer, as those that open and end a text."""
    is_cut: bool


def tokenize(examples: Sequence[Example], model: Model) -> list[Tokens]:
    """The tokens of each example's text, cut to what the model's positions reach.

    Errors: BadInput, if tokenizer.json is missing or broken, or names a token that the model does not have.
    """
    tokenizer = _open(model)
    limit = longest_text(model)
    vocabulary = vocabulary_size(model)
    if model.family != CAUSAL_LM:  # the tokens that end a text must survive the cut
        _attempt("does not allow texts to be cut", lambda: tokenizer.enable_truncation(limit))
    return [_tokens(example, tokenizer, limit, vocabulary) for example in examples]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A text and an answer appended to it, as the model sees them."""

    ids: Ids
    context: int
    """So many of the first tokens are the text's; at least one."""
    is_cut: bool


def answered(pairs: Sequence[tuple[Example, str]], model: Model) -> list[Answered]:
    """The tokens of each text with an answer; blanks at the text's end go to the answer, what is too long loses its beginning.

    Errors: BadInput, if a text has no tokens, an answer adds none, or is alone too long for the model.
    """
    tokenizer = _open(model)
    limit, vocabulary = longest_text(model), vocabulary_size(model)
    return [_answered(example, choice, tokenizer, limit, vocabulary) for example, choice in pairs]


def _answered(example: Example, choice: str, tokenizer: Tokenizer, limit: int, vocabulary: int) -> Answered:
    assert example.text is not None
    text = example.text.rstrip()
    whole = _opening_tokens(example, example.text + choice, tokenizer, vocabulary)
    context = len(_opening_tokens(example, text, tokenizer, vocabulary))
    answer = len(whole) - context
    if not context or answer < 1 or answer >= limit:
        raise example.place.refusal(
            "an answer cannot be scored",
            why=f"the text has {context} tokens and the choice {choice!r:.40} adds {answer}, and the model takes {limit}",
            do="Give every question a text, and answers that fit.",
        )
    kept = whole[-limit:]
    return Answered(ids=kept, context=len(kept) - answer, is_cut=len(kept) < len(whole))


def _opening_tokens(example: Example, text: str, tokenizer: Tokenizer, vocabulary: int) -> Ids:
    """The text's tokens without those that a tokenizer puts behind a whole text."""
    encoding = _attempt(f"fails on {example.place} of the data set", lambda: tokenizer.encode(text))
    last = len(encoding.ids)
    while last > 1 and encoding.special_tokens_mask[last - 1]:
        last -= 1
    return _checked(np.array(encoding.ids[:last], np.int64), example, vocabulary)


def longest_text(model: Model) -> int:
    """In tokens: as far as the model's positions reach, and no further than MAX_TOKENS; BadInput if config.json makes no sense."""
    limits = [MAX_TOKENS]
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions not in _NO_LIMIT:
        if type(positions) is not int or positions < 1:
            raise BadInput(
                "the model's config cannot be used",
                why=f"`max_position_embeddings` is {positions!r:.40}, no whole number from 1 on",
                do="Correct it, or leave it out if the model has no limit.",
                file=CONFIG,
            )
        limits.append(positions)
    for name, part in model.module.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, torch.nn.Embedding):
            skipped = 0 if part.padding_idx is None else part.padding_idx + 1  # RoBERTa counts from behind it
            limits.append(part.num_embeddings - skipped)
    return min(limits)


def mask_token(model: Model) -> int:
    """The token that stands where a masked language model is asked for one; BadInput if the tokenizer knows none."""
    tokenizer = _open(model)
    known = (tokenizer.token_to_id(name) for name in MASKS)
    found = next((token for token in known if token is not None), None)
    if found is None:
        raise _broken(f"has no mask token ({' or '.join(MASKS)}), and a masked language model needs one")
    if found >= vocabulary_size(model):
        raise _broken(
            f"gives its mask token the number {found}, and the model's vocab_size is {vocabulary_size(model)}"
        )
    return found


def vocabulary_size(model: Model) -> int:
    """How many tokens the model has an embedding for."""
    module: Any = model.module
    return int(module.get_input_embeddings().weight.shape[0])


def _open(model: Model) -> Tokenizer:
    if not (model.path / FILE).exists():
        raise BadInput(
            "the model has no tokenizer",
            why=f"{FILE} is missing",
            do="Save the fast tokenizer next to the model: tokenizer.save_pretrained(directory).",
            file=FILE,
        )
    with open_regular(model.path / FILE) as stream:
        content = stream.read(MAX_TOKENIZER_BYTES + 1)
    if len(content) > MAX_TOKENIZER_BYTES:
        raise _broken(f"is longer than {MAX_TOKENIZER_BYTES} bytes")
    tokenizer = _attempt("cannot be read", lambda: Tokenizer.from_buffer(content))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _tokens(example: Example, tokenizer: Tokenizer, limit: int, vocabulary: int) -> Tokens:
    encoding = _attempt(f"fails on {example.place} of the data set", lambda: tokenizer.encode(example.text))
    ids = _checked(np.array(encoding.ids[:limit], np.int64), example, vocabulary)
    is_special = np.array(encoding.special_tokens_mask[:limit], np.bool_)
    return Tokens(
        ids=ids, is_special=is_special, is_cut=bool(encoding.overflowing) or len(encoding.ids) > limit
    )


def _checked(ids: Ids, example: Example, vocabulary: int) -> Ids:
    if ids.size and ids.max() >= vocabulary:
        raise example.place.refusal(
            "the tokenizer does not fit the model",
            why=f"it gives token {ids.max()}, and the model's vocab_size is {vocabulary}",
            do=f"Put the model's own {FILE} next to it.",
        )
    return ids


def _attempt(what: str, call: Callable[[], _Result]) -> _Result:
    try:
        return call()
    except BaseException as error:  # the library raises bare Exception, and a panic that is not even one
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise _broken(f"{what}: {str(error)[:300]}") from error


def _broken(why: str) -> BadInput:
    return BadInput("the tokenizer cannot be used", why=f"it {why}", do="Save it again.", file=FILE)

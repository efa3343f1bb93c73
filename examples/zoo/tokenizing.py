"""Effects. The zoo's two tokenizers, and how they are written next to a model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from settings import SECTION_TOKENS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast


def byte_tokenizer() -> Tokenizer:
    """One token a byte, whose number is the byte; `<pad>` is 256; `<s>`, 257, stands in front."""
    vocabulary = {letter: byte for byte, letter in enumerate(_letters())}
    tokenizer = Tokenizer(models.BPE(vocab={**vocabulary, "<pad>": 256, "<s>": 257}, merges=[]))
    tokenizer.add_special_tokens(["<pad>", "<s>"])
    return _dressed(tokenizer, splits_words=False)


def word_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Byte-pair tokens learnt from `texts`; `<pad>` is 0; `<s>`, 1, stands in front."""
    tokenizer = _dressed(Tokenizer(models.BPE()), splits_words=True)
    trainer = trainers.BpeTrainer(
        vocab_size=SECTION_TOKENS,
        special_tokens=["<pad>", "<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _dressed(tokenizer, splits_words=True)


def save_tokenizer(tokenizer: Tokenizer, context: int, directory: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", model_max_length=context
    ).save_pretrained(directory)


def _dressed(tokenizer: Tokenizer, splits_words: bool) -> Tokenizer:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=splits_words)
    tokenizer.decoder = decoders.ByteLevel()
    start = tokenizer.token_to_id("<s>")
    if start is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B:1", special_tokens=[("<s>", start)]
        )
    return tokenizer


def _letters() -> list[str]:
    """The letter by which byte-level tokenizers write each byte, in the order of the bytes."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in shown else next(others)) for byte in range(256)]

"""Pure. The kinds of models: what each reads, and what it answers."""

from __future__ import annotations

from typing import Literal

CAUSAL_LM = "causal_lm"
MASKED_LM = "masked_lm"
"""Is asked for tokens behind a mask, from those on both sides of it."""
TEXT_ENCODER = "text_encoder"
READS_TEXT = frozenset({CAUSAL_LM, MASKED_LM, TEXT_ENCODER, "text_classifier", "text_regressor"})
READS_IMAGES = frozenset({"image_classifier", "image_regressor", "image_encoder"})
READS_FEATURES = frozenset({"feature_classifier", "feature_regressor", "feature_encoder"})
"""Flat vectors."""
FAMILIES = READS_TEXT | READS_IMAGES | READS_FEATURES

Answer = Literal["tokens", "class", "numbers", "embedding"]


def answer_of(family: str) -> Answer:
    """What a model of the family answers: tokens, a class, numbers (regression) or an embedding (it has no head)."""
    if family in (CAUSAL_LM, MASKED_LM):
        return "tokens"
    answers: dict[str, Answer] = {"classifier": "class", "regressor": "numbers", "encoder": "embedding"}
    return answers[family.rpartition("_")[2]]

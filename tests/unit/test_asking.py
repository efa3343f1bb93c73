"""Pure. Which tokens a language model is asked for, and where it answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.examples.asking import NOT_ASKED, masked_tokens, next_tokens

MASK = 10_000
TEXTS = arrays(np.int64, st.integers(1, 300), elements=st.integers(0, 99))


@given(TEXTS)
def test_each_position_is_to_tell_the_token_behind_it_and_the_last_none(ids):
    targets = next_tokens(ids)
    assert targets[:-1].tolist() == ids[1:].tolist()
    assert targets[-1] == NOT_ASKED


@pytest.mark.parametrize(("given", "asked"), [(1, [6, 7, 8]), (2, [7, 8]), (3, [8]), (4, [])])
def test_what_is_given_is_not_asked_for(given, asked):
    targets = next_tokens(np.array([5, 6, 7, 8]), given)
    assert targets[targets != NOT_ASKED].tolist() == asked
    assert len(targets) == 4


@given(TEXTS, st.data(), st.integers(0, 2**40))
def test_the_masked_tokens_are_the_targets_and_all_else_is_as_it_was(ids, data, seed):
    is_special = data.draw(arrays(np.bool_, len(ids)))
    text, targets = masked_tokens(ids, is_special, MASK, seed)
    asked = targets != NOT_ASKED
    assert (text[asked] == MASK).all()
    assert (targets[asked] == ids[asked]).all()
    assert (text[~asked] == ids[~asked]).all()
    assert not is_special[asked].any()
    ordinary = int((~is_special).sum())
    assert asked.sum() == min(ordinary, max(1, round(0.15 * ordinary)))


def test_the_same_seed_masks_the_same_places_whatever_stands_there():
    none = np.zeros(40, np.bool_)
    first, again, other = (masked_tokens(np.full(40, value), none, MASK, 7)[1] for value in (1, 1, 2))
    assert (first == again).all()
    assert ((first != NOT_ASKED) == (other != NOT_ASKED)).all()


def test_over_many_texts_each_place_is_asked_for_alike_often():
    none = np.zeros(20, np.bool_)
    asked = sum(masked_tokens(np.arange(20), none, MASK, seed)[1] != NOT_ASKED for seed in range(4000))
    share = asked / 4000
    assert np.abs(share - 0.15).max() < 0.03  # five standard errors

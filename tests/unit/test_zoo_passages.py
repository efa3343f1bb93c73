"""The zoo's text: what it is trained on is not what it is tested with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pydoc_data.topics import topics
from types import ModuleType

import pytest

LENGTH, CHUNK, TEST, CALIBRATION = 127, 4, 8, 2


@pytest.fixture(scope="module")
def passages(from_examples: Callable[[str], ModuleType]) -> ModuleType:
    return from_examples("passages")


@pytest.fixture(scope="module")
def splits(passages: ModuleType):
    return passages.split_passages(LENGTH, CHUNK, TEST, CALIBRATION)


def test_every_topic_of_a_group_is_one_of_pydoc(passages):
    assert {name for names in passages.GROUPS.values() for name in names.split()} <= set(topics)


def test_no_topic_of_pydoc_is_in_two_groups(passages):
    counted = Counter(name for names in passages.GROUPS.values() for name in names.split())
    assert set(counted.values()) == {1}


def test_every_passage_is_ascii_of_the_length_asked_for(splits):
    assert {len(passage.text.encode()) for passage in splits.passages} == {LENGTH}
    assert all(passage.text.isascii() for passage in splits.passages)


def test_every_topic_has_as_many_passages_in_each_split(passages, splits):
    counted = Counter((passage.topic, passage.split) for passage in splits.passages)
    expected = {"test": TEST * CHUNK, "calibration": CALIBRATION * CHUNK}
    assert counted == {
        (topic, split): number for topic in passages.GROUPS for split, number in expected.items()
    }


def test_no_passage_stands_in_the_training_text(splits):
    training = "\n".join(text for texts in splits.training.values() for text in texts)
    assert [passage.text for passage in splits.passages if passage.text in training] == []


def test_no_passage_stands_in_two_splits(splits):
    test = {passage.text for passage in splits.passages if passage.split == "test"}
    assert not test & {passage.text for passage in splits.passages if passage.split == "calibration"}


def test_even_half_a_passage_is_hardly_ever_found_in_the_training_text(splits):
    training = "\n".join(text for texts in splits.training.values() for text in texts)
    found = [passage for passage in splits.passages if passage.text[30:94] in training]
    assert len(found) <= len(splits.passages) // 50


def test_most_of_the_text_is_left_to_train_on(splits):
    held = len(splits.passages) * LENGTH
    assert sum(len(text) for texts in splits.training.values() for text in texts) > 6 * held


def test_the_same_seed_gives_the_same_splits_and_another_gives_others(passages, splits):
    assert passages.split_passages(LENGTH, CHUNK, TEST, CALIBRATION) == splits
    assert passages.split_passages(LENGTH, CHUNK, TEST, CALIBRATION, seed=1) != splits


def test_more_than_the_manual_holds_is_refused_with_the_topic(passages):
    with pytest.raises(ValueError, match="too little text about"):
        passages.split_passages(LENGTH, CHUNK, 10_000, 1)


def test_every_section_is_taken_from_known_groups(passages, from_examples):
    assert set(passages.SECTION_OF) < set(passages.GROUPS)
    assert set(passages.SECTION_OF.values()) == set(from_examples("settings").SECTIONS)

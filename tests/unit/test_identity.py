"""An identity says what, never where, and refuses what has no stable bytes."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import NoStableBytes
from orchestrator.identity import canonical, digest, digest_bytes, digest_files

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def shuffled(value):
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(JSON)
def test_the_order_of_keys_does_not_matter(value):
    assert digest(value) == digest(shuffled(value))


@given(JSON)
def test_lists_and_tuples_are_one(value):
    assert digest([value, value]) == digest((value, value))


def test_the_order_of_a_list_matters():
    assert digest([1, 2]) != digest([2, 1])


def test_whole_floats_and_integers_are_one():
    assert canonical({"amount": 1.0}) == canonical({"amount": 1}) == b'{"amount":1}'


def test_a_tenth_is_written_as_people_write_it():
    assert canonical([0.1, 0.5]) == b"[0.1,0.5]"


def test_true_is_not_one():
    assert digest(True) != digest(1)


def test_text_stays_as_it_is():
    assert canonical("é\u2028") == '"é\u2028"'.encode()


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, b"bytes", {1, 2}, Path("x"), datetime(2026, 1, 1), object()]
)
def test_what_has_no_stable_bytes_is_refused_and_named(value):
    with pytest.raises(NoStableBytes, match=r"value\.params\[1\]"):
        digest({"params": [0, value]})


def test_keys_must_be_text():
    with pytest.raises(NoStableBytes, match="key 1"):
        digest({1: 2})


def test_a_directory_is_named_by_its_files_bytes_and_names():
    one = digest_files({"a": digest_bytes(b"1"), "b": digest_bytes(b"2")})
    assert one == digest_files({"b": digest_bytes(b"2"), "a": digest_bytes(b"1")})
    assert one != digest_files({"a": digest_bytes(b"2"), "b": digest_bytes(b"1")})
    assert one != digest_files({"a": digest_bytes(b"1")})


def test_a_digest_is_known_for_ever():
    assert digest({"amount": 0.5, "pattern": "2:4", "skip": []}) == (
        "bc323690f8eaf48d86f3460f1fe26a931b77d98db4f94346315587fa7f6810ce"
    )

"""Numbers and foreign names as people read them."""

from __future__ import annotations

import math
import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.wording import change, code, count, duration, moment, number, percent, plain, shorten, size


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (1, "1.000"),
        (-2.5, "−2.500"),
        (12.3456, "12.35"),
        (0.01234, "0.01234"),
        (12345.6, "12,346"),
        (1e-9, "1.00e−09"),
        (2.5e9, "2.50e+09"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
    ],
)
def test_numbers_have_four_digits_and_a_real_minus(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.031, "+3.1 %"),
        (-0.0004, "−0.04 %"),
        (0.0, "0 %"),
        (-1e-9, "0 %"),
        (12.5, "+1,250 %"),
        (math.inf, "+∞"),
        (-math.inf, "−∞"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_changes_always_have_a_sign_except_nothing(value, shown):
    assert change(value) == shown


def test_accuracy_changes_in_points():
    assert change(-0.02, "pt") == "−2.0 pt"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (999_949_999, "1.0 GB"),
        (123e9, "123 GB"),
        (-5e6, "−5.0 MB"),
        (7e18, "7000 PB"),
        (None, "–"),
    ],
)
def test_sizes_are_decimal(value, shown):
    assert size(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (3599.6, "1 h 0 min"),
        (7325, "2 h 2 min"),
        (90_000, "1 d 1 h"),
        (None, "–"),
        (-1, "–"),
        (math.nan, "–"),
    ],
)
def test_durations_have_two_units(seconds, shown):
    assert duration(seconds) == shown


def test_shares_counts_and_moments():
    assert percent(0.5) == "50.0 %"
    assert percent(math.nan) == "–"
    assert count(1, "model") == "1 model"
    assert count(1200, "model") == "1,200 models"
    assert moment(datetime(2026, 3, 29, 1, 30, tzinfo=UTC)) == "2026-03-29 01:30 UTC"
    assert moment(None) == "–"


def test_long_names_keep_their_beginning_and_their_end():
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghijk", 10) == "abcde…hijk"


@given(st.text(max_size=300), st.integers(5, 80))
def test_plain_text_is_one_short_line_of_visible_characters(text, limit):
    shown = plain(text, limit)
    assert len(shown) <= limit
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    shown.encode()


def test_what_cannot_be_seen_is_shown_as_its_code():
    assert plain("a\u202eb\x1b[0m\nc\u200b") == "a\\u202eb\\u001b[0m c\\u200b"


def test_letters_of_other_scripts_stay_as_they_are():
    assert plain("模型 модель नमूना نموذج é") == "模型 модель नमूना نموذج é"


def test_towers_of_accents_are_cut_down():
    assert len(plain("a" + "\u0301" * 5000, 10_000)) == 5


@given(st.text(alphabet="`|\\ ab\n<[*", max_size=40))
def test_code_spans_are_closed_by_nothing_within_them(text):
    shown = code(text)
    if not text:
        assert shown == "`–`"
        return
    fence = len(shown) - len(shown.lstrip("`"))
    inner = shown[fence:-fence]
    assert shown.endswith("`" * fence)
    assert "`" * fence not in inner.replace("`" * (fence + 1), "")
    assert "\n" not in shown
    assert "|" not in inner.replace("\\|", "")

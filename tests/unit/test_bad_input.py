"""The error that tells a stranger's mistake: printable whatever the stranger wrote, and whole after a pickle."""

from __future__ import annotations

import pickle

import pytest

from tasks.contract import BadInput, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ümläut 日本", "plain, ümläut 日本"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("two\nlines", "two\\nlines"),
        ("nul\0", "nul\\x00"),
        ("left\u202eright", "left\\u202eright"),
        ("half\ud800", "half\\ud800"),
        ("byte\udcff", "byte\\udcff"),
    ],
)
def test_text_from_a_stranger_is_shown_on_one_line(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text).isprintable()
    error = BadInput(text, why=text, do=text, file=text, tensor=text, line=3)
    assert str(error).isprintable()
    assert str(error).encode()
    assert str(error) == f"{shown} ({shown}, tensor {shown}, line 3): {shown}. {shown}"


def test_what_was_said_stays_as_it_was_and_goes_through_pickle() -> None:
    error = BadInput("a\n", why="b\x1b", do="c", file="d\udcff", tensor="e", line=7)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert (again.what, again.why, again.do, again.file, again.tensor, again.line) == (
        "a\n", "b\x1b", "c", "d\udcff", "e", 7,
    )  # fmt: skip

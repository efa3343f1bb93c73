"""JSON from strangers: what is read, what is refused, and why."""

from __future__ import annotations

import math
import time

import pytest

from tasks.contract import BadInput
from tasks.files.strictjson import MAX_OBJECTS, parse_object


def parse(text: str | bytes, may_be_infinite: bool = False):
    data = text.encode() if isinstance(text, str) else text
    return parse_object(
        data, what="the file", file="f.json", max_bytes=10_000_000, may_be_infinite=may_be_infinite
    )


def test_ordinary_objects_are_read_as_any_parser_reads_them():
    assert parse('{"a": [1, -2.5, true, null, "\\u00e9\\ud83d\\ude00"], "b": {"c": {}}}') == {
        "a": [1, -2.5, True, None, "é😀"],
        "b": {"c": {}},
    }


def test_the_file_and_the_byte_are_named():
    with pytest.raises(BadInput, match=r"f\.json.*at byte 7") as caught:
        parse('{"é": x}')
    assert caught.value.file == "f.json"


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_constants_that_are_no_json_are_read_only_where_they_are_expected(constant):
    with pytest.raises(BadInput, match="no JSON number"):
        parse(f'{{"a": {constant}}}')
    value = parse(f'{{"a": {constant}}}', may_be_infinite=True)["a"]
    assert math.isnan(value) if constant == "NaN" else value == float(constant.replace("Infinity", "inf"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 1}', "'a' stands in it twice"),
        ('{"x": {"a": 1, "b": 2, "a": 3}}', "'a' stands in it twice"),
        ('{"a": -0}', "-0"),
        ('{"a": "\\ud800"}', "surrogate"),
        ('{"\\udfff": 1}', "surrogate"),
        ('{"a": ["x", ["\\ud800"]]}', "surrogate"),
        ("3", "JSON int"),
        ('"text"', "JSON str"),
        ("null", "JSON NoneType"),
        ("", "not JSON"),
        ("{'a': 1}", "not JSON"),
        ('{"a": 1} {}', "not JSON"),
        ('{"a": "\n"}', "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"a": "\xff"}', "UTF-8 at byte 7"),
        ('{"a": ' + "9" * 5000 + "}", "number"),
        ('{"a":' * 50_000 + "1" + "}" * 50_000, "nested too deeply"),
        ('{"a": [' + "{}," * MAX_OBJECTS + "{}]}", "objects"),
        (b" " * 10_000_001, "more than the 10000000"),
    ],
)
def test_what_parsers_disagree_on_or_choke_on_is_refused(text, reason):
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert reason in caught.value.why


def test_a_long_key_is_cut_in_the_message():
    key = "k" * 10_000
    with pytest.raises(BadInput) as caught:
        parse(f'{{"{key}": 1, "{key}": 2}}')
    assert len(str(caught.value)) < 500


def test_a_pair_of_escapes_that_makes_one_character_is_text():
    assert parse('{"a": ["\\ud83d\\ude00", "\\\\ud800"]}') == {"a": ["😀", "\\ud800"]}


def test_a_repeated_key_among_very_many_is_found_at_once():
    """Each name was once compared with all before it: a file of 10 MB took hours, one of 1 MB minutes."""
    text = "{" + ",".join(f'"{number}":0' for number in range(100_000)) + ',"99999":0}'
    began = time.process_time()
    with pytest.raises(BadInput, match="'99999' stands in it twice"):
        parse(text)
    assert time.process_time() - began < 20

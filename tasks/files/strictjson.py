"""Pure. Reads JSON from a stranger: bounded, and nothing in it that two parsers would read differently."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from tasks.contract import BadInput

MAX_OBJECTS = 250_000
"""Room for 200,000 tensors; each empty object of a hostile file would cost us 64 bytes for its two."""
MAX_MARKS = 2_500_000
"""How often each of `"`, `[` and `,` may stand in a file; 200,000 tensors need two million quotes."""


class NotStrict(ValueError):
    """What is wrong with a text, in words that follow on its name."""


def parse_object(
    data: bytes,
    *,
    what: str,
    file: str,
    max_bytes: int,
    may_be_infinite: bool = False,
    do: str = "Export the model again with save_pretrained.",
) -> dict[str, Any]:
    """The JSON object in the bytes; `may_be_infinite` admits NaN and Infinity, which model configs contain.

    Refuses what serde_json, the parser of the safetensors library, refuses; and repeated keys, which it accepts.
    """

    def refuse(why: str) -> NoReturn:
        raise BadInput(f"{what} cannot be read", why=why, do=do, file=file)

    if len(data) > max_bytes:
        refuse(f"it is {len(data)} bytes long, more than the {max_bytes} that any known model needs")
    for mark in b'"[,':
        if data.count(mark) > MAX_MARKS:
            refuse(f"it holds more than {MAX_MARKS} times the character {chr(mark)}")
    try:
        value = decoded(data, may_be_infinite=may_be_infinite)
    except NotStrict as error:
        refuse(str(error))
    if b"\\u" in data and _has_half_pairs(value):
        refuse("a text in it holds half a surrogate pair")
    if not isinstance(value, dict):
        refuse(f"it is a JSON {type(value).__name__}, not an object")
    return value


def decoded(data: bytes, *, may_be_infinite: bool = False) -> Any:
    """The JSON value in the bytes, in which escapes may still make half characters. Errors: NotStrict."""
    try:
        text = data.decode("utf-8")
        return _decoder(may_be_infinite).decode(text)
    except NotStrict:
        raise
    except UnicodeDecodeError as error:
        raise NotStrict(f"it is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise NotStrict("it is nested too deeply") from error
    except json.JSONDecodeError as error:
        place = len(text[: error.pos].encode())
        raise NotStrict(f"it is not JSON: {error.msg} at byte {place}") from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise NotStrict(f"it holds a number that no file needs: {error}") from error


def _decoder(may_be_infinite: bool) -> json.JSONDecoder:
    objects = 0

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal objects
        objects += 1
        if objects > MAX_OBJECTS:
            raise NotStrict(f"it holds more than {MAX_OBJECTS} objects")
        result = dict(pairs)
        if len(result) != len(pairs):
            raise NotStrict(f"the key {_first_repeated(pairs)[:200]!r} stands in it twice")
        return result

    def whole(digits: str) -> int:
        if digits == "-0":
            raise NotStrict("the number -0 is no whole number")
        return int(digits)

    def constant(name: str) -> float:
        if not may_be_infinite:
            raise NotStrict(f"{name} is no JSON number")
        return float(name.replace("Infinity", "inf"))

    return json.JSONDecoder(object_pairs_hook=unique, parse_int=whole, parse_constant=constant)


def _first_repeated(pairs: list[tuple[str, Any]]) -> str:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return name
        seen.add(name)
    raise AssertionError("no key stands there twice")


def _has_half_pairs(value: Any) -> bool:
    """Whether some text in the value, at any depth, is no Unicode text."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False

"""Pure. What pydantic finds wrong with a YAML text, as lines for people: where, why, and which keys would be known."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from orchestrator.redaction import redacted
from orchestrator.specs import yamltext

_NO_MAPPING = frozenset({"dict_type", "mapping_type", "model_type", "model_attributes_type"})
_NO_LIST = frozenset({"tuple_type", "list_type"})


def explained(
    error: ValidationError,
    model: type[BaseModel],
    value: Any,
    lines: Mapping[yamltext.Path, int],
    name: str,
) -> list[str]:
    """One message for each mistake: `file:line: path: why`; unknown keys with what they may be meant to be."""
    found = (_explain(dict(item), model, value, lines, name) for item in error.errors())
    return list(dict.fromkeys(found))


def known_keys(model: type[BaseModel], path: Sequence[Any], value: Any) -> list[str]:
    """The keys that a part of a model's data has, which lies at a path of keys and indices; none where any name goes.

    Of a union the member counts that the part's `kind` names, if one does.
    """
    options: list[Any] = [model]
    for part in path:
        options = [one for option in options for one in _inside(option, part)]
        value = value.get(part) if isinstance(value, Mapping) else None
    models = [one for one in options if isinstance(one, type) and issubclass(one, BaseModel)]
    kind = value.get("kind") if isinstance(value, Mapping) else None
    chosen = [one for one in models if kind in _kinds(one)] or models
    return list(dict.fromkeys(key for one in chosen for key in one.model_fields))


def _explain(
    item: dict[str, Any],
    model: type[BaseModel],
    value: Any,
    lines: Mapping[yamltext.Path, int],
    name: str,
) -> str:
    path = tuple(part for part in item["loc"] if part != "[key]")
    kind, given = item["type"], item.get("input")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        path = (*path, "kind")
    path, line = _nearest(path, lines)
    where = f"{name}:{line}: {'.'.join(str(part) for part in path) or 'fleet'}"
    if kind == "extra_forbidden":
        known = known_keys(model, path[:-1], value)
        close = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known here: {', '.join(known)}"
        return f"{where}: unknown key {path[-1]!r}{hint}"
    if kind == "missing":
        return f"{where}: the key {item['loc'][-1]!r} is missing"
    if kind == "union_tag_not_found":
        return f"{where}: the key 'kind' is missing"
    if kind == "union_tag_invalid":
        message, given = f"it is one of {item['ctx']['expected_tags']}".replace("'", ""), item["ctx"]["tag"]
    elif kind in _NO_MAPPING:
        keys = known_keys(model, path, value)
        message = f"it should be a mapping of {', '.join(keys) or 'names, each to what it is'}"
    elif kind in _NO_LIST:
        message = "it should be a list"
    else:
        message = item["msg"].removeprefix("Value error, ")
    shown = f" (it is {redacted(repr(given), ())})" if isinstance(given, str | int | float | bool) else ""
    return f"{where}: {message[0].lower()}{message[1:]}{shown}"


def _nearest(path: yamltext.Path, lines: Mapping[yamltext.Path, int]) -> tuple[yamltext.Path, int]:
    """The longest part of a pydantic location that stands in the text (union tags do not), and its line."""
    known: yamltext.Path = ()
    for part in path:
        if (*known, part) in lines:
            known = (*known, part)
    return known, lines.get(known, 1)


def _inside(annotation: Any, part: Any) -> Iterator[Any]:
    """What lies under a key or index of anything that is annotated so, without unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if part in annotation.model_fields:
            yield from _members(annotation.model_fields[part].annotation)
    elif get_args(annotation):
        yield from _members(get_args(annotation)[-1 if issubclass(get_origin(annotation), Mapping) else 0])


def _members(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from _members(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for one in get_args(annotation):
            yield from _members(one)
    else:
        yield annotation


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field else ()

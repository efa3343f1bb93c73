"""Pure. YAML text -> plain values and the line of each, by the YAML 1.2 core schema: `2:4` stays text, `no` stays text."""

from __future__ import annotations

import re
from typing import Any

import yaml

from orchestrator.errors import SpecError

MAX_TEXT_BYTES = 4 * 2**20
MAX_DEPTH = 32
MAX_NODES = 200_000

Path = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_PLAIN = {"": None, "~": None, "null": None, "true": True, "false": False}


class _Anchored(Exception):
    """An anchor or an alias stands in a line."""

    def __init__(self, line: int) -> None:
        self.line = line


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _Anchored(event.start_mark.line + 1)
        return super().compose_node(parent, index)


def parse(text: str, name: str) -> tuple[Any, dict[Path, int]]:
    """Plain values, and path -> line (1 is the first). `name` stands in errors.

    Errors: SpecError for syntax, duplicate keys, anchors, tags, and sizes no fleet file has.
    """
    if len(text.encode(errors="surrogatepass")) > MAX_TEXT_BYTES:
        raise SpecError(f"{name}: more than {MAX_TEXT_BYTES} bytes; this is no fleet file")
    try:
        root = yaml.compose(text, Loader=_Loader)
    except _Anchored as found:
        raise SpecError(
            f"{name}:{found.line}: anchors and aliases are not used here; write the value out"
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SpecError(
            f"{name}:{mark.line + 1 if mark else 1}: not valid YAML: {error.problem or error.context}"
        ) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise SpecError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None
    if root is None:
        raise SpecError(f"{name}: the file is empty; `prunefleet init` writes one that works")
    lines: dict[Path, int] = {}
    return _value(root, (), lines, name), lines


def _value(node: yaml.Node, path: Path, lines: dict[Path, int], name: str) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if len(path) > MAX_DEPTH or len(lines) > MAX_NODES:
        raise SpecError(f"{name}:{line}: nested or long beyond what a fleet file can be")
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise SpecError(f"{name}:{key_line}: a key must be plain text")
            key = key_node.value
            if key in values:
                raise SpecError(f"{name}:{key_line}: the key {key!r} stands here twice")
            lines[(*path, key)] = key_line
            values[key] = _value(value_node, (*path, key), lines, name)
        return values
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, index), lines, name) for index, item in enumerate(node.value)]
    if node.tag.startswith("!") or node.tag.startswith("tag:yaml.org,2002:python"):
        raise SpecError(f"{name}:{line}: the tag {node.tag!r} is not used here")
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:
    text: str = node.value
    if getattr(node, "style", None):
        return text
    if text.lower() in _PLAIN:
        return _PLAIN[text.lower()]
    if _INT.match(text):
        return int(text)
    return float(text) if _FLOAT.match(text) else text

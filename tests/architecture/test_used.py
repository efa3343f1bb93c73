"""No public function is there for tests alone: what only they call proves nothing of what runs."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for room in ("orchestrator", "tasks") for path in (ROOT / room).rglob("*.py"))
FOR_OTHERS = {
    "collect": "the Python API's `gc`",
    "redirect_request": "called by urllib",
    "do_GET": "called by http.server",
    "log_message": "called by http.server",
    "handle_error": "called by socketserver",
    "still_scene": "scenes for tests are shipped with the simulator",
    "read_aliases": "a model's aliases, by a name that is checked first",
}
"""Who they are for instead."""


def names_in(tree):
    """Every name, attribute, import and text that may name a function."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                yield name
            case ast.ImportFrom(names=aliases):
                yield from (alias.name for alias in aliases)
            case ast.Constant(value=str(text)):
                yield text


def test_every_public_function_is_used_by_something_that_is_no_test():
    trees = [ast.parse(path.read_text()) for path in SOURCES]
    used = {name for tree in trees for name in names_in(tree)}
    unused = {
        node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    } - used
    assert unused == FOR_OTHERS.keys()

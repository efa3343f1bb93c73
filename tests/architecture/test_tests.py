"""The tests themselves: each says by itself, or by a function of the tests that it calls, what must hold; files have names of their own."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from cases.order import SLOWEST

TESTS = Path(__file__).parents[1]
FILES = sorted(TESTS.rglob("test_*.py"))
TELLING = ("assert_", "raises", "warns", "fail")


@cache
def functions_of(path: Path) -> dict[str, ast.FunctionDef]:
    """By name; those that a module takes from other modules of the tests too."""
    tree = ast.parse(path.read_text())
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            source = TESTS / f"{node.module.replace('.', '/')}.py"
            theirs = functions_of(source) if source.is_file() else {}
            found |= {one.name: theirs[one.name] for one in node.names if one.name in theirs}
    return found | {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def asserts(function: ast.FunctionDef) -> bool:
    return any(
        isinstance(node, ast.Assert) or (isinstance(node, ast.Call) and name_of(node).startswith(TELLING))
        for node in ast.walk(function)
    )


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def called(function: ast.FunctionDef) -> set[str]:
    return {name_of(node) for node in ast.walk(function) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_test_asserts_something(path):
    known = functions_of(path)
    silent = [
        name
        for name, function in known.items()
        if name.startswith("test_")
        and not asserts(function)
        and not any(asserts(known[other]) for other in called(function) if other in known)
    ]
    assert silent == []


def test_the_files_that_begin_first_are_there_and_no_two_have_one_name():
    names = [path.name for path in FILES]
    assert set(SLOWEST) <= set(names)
    assert sorted(names) == sorted(set(names))

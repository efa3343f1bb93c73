"""Everything that the command line offers, and every code it ends with, stands in the README."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer.main

from orchestrator import errors
from orchestrator.cli import app

REPOSITORY = Path(__file__).resolve().parent.parent.parent
README = (REPOSITORY / "README.md").read_text()
COMMANDS = sorted(typer.main.get_command(app).commands)
DOCUMENTED_CODES = {int(code) for code in re.findall(r"\| (\d+) \|", README)}


def exit_codes() -> set[int]:
    """The exit codes that the package names: `EXIT_… = …` and `exit_code = …`."""
    found = set()
    for path in (REPOSITORY / "orchestrator").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign):
                for target, value in pairs(node):
                    named = isinstance(target, ast.Name) and re.match(r"EXIT_|exit_code$", target.id)
                    if named and isinstance(value, ast.Constant) and isinstance(value.value, int):
                        found.add(value.value)
    return found


def pairs(node: ast.Assign):
    """Names and values of an assignment, also of several at once."""
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from zip(target.elts, node.value.elts, strict=True)
        else:
            yield target, node.value


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_stands_in_the_readme(command):
    assert re.search(rf"^\| `{command}\b", README, re.MULTILINE), f"README.md has no row for `{command}`"


def test_no_row_of_the_readme_names_a_command_that_is_gone():
    table = README.split("| command | does |")[1].split("\n\n")[0]
    named = set(re.findall(r"^\| `(\w+)", table, re.MULTILINE))
    assert named == set(COMMANDS)


def test_every_exit_code_stands_in_the_readme_and_no_other():
    found = exit_codes()
    assert {0, 3, 4, 5, 6, 69, 75, 77} <= found, "the search finds those that are known"
    assert found | {0, 1, 2} == DOCUMENTED_CODES


@pytest.mark.parametrize(
    "error",
    [value for value in vars(errors).values() if isinstance(value, type)],
    ids=lambda one: one.__name__,
)
def test_every_error_has_a_message_of_its_own_and_a_documented_code(error):
    assert issubclass(error, errors.PrunefleetError)
    assert str(error()) == error.__doc__
    assert error.exit_code in DOCUMENTED_CODES


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_says_what_it_is_for(command):
    found = typer.main.get_command(app).commands[command]
    assert found.help
    for parameter in found.params:
        assert getattr(parameter, "help", None), f"{command}: {parameter.name} has no help"

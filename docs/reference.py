"""Effects. Reference pages made from the code: commands, the fleet file, metrics, errors and exit codes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXIT_CODES: Mapping[int, str] = {
    0: "done; also nothing to do, or stopped where a window or a budget said so: the rest is carried over",
    1: "internal error: please report it",
    2: "a mistake in the fleet file, or in how the command was called",
    3: "a gate blocked something",
    4: "some of it failed, is quarantined or impossible; `verify`: something is damaged; `doctor`: something is broken",
    5: "a gate could not tell",
    6: "`plan --detailed-exitcode`, `nightly --due`: there is work to do",
    69: "a service that is needed does not answer",
    74: "what a command prints cannot be written",
    75: "interrupted; the same command goes on where it stopped",
    77: "not permitted",
}


def write(folder: Path) -> None:
    """Writes every page, replacing older ones."""
    folder.mkdir(exist_ok=True)
    for name, page in pages().items():
        (folder / f"{name}.md").write_text(page, encoding="utf-8")


def pages() -> dict[str, str]:
    """Page name -> MyST text."""
    return {
        "commands": commands(),
        "fleet-file": fleet_file(),
        "outputs": outputs(),
        "metrics": metrics(),
        "errors": errors(),
    }


def commands() -> str:
    """Every command with its arguments and options, as the program itself tells them."""
    import typer.main

    from orchestrator.cli import app

    group = typer.main.get_command(app)
    lines = [
        "# Commands",
        "",
        "Data goes to stdout, talk to stderr; `--json` prints data as JSON. `NO_COLOR` is respected.",
    ]
    for name, command in sorted(group.commands.items()):  # type: ignore[attr-defined]
        lines += ["", f"## `prunefleet {name}`", "", str(command.help), ""]
        rows = [(_named(parameter), _told(parameter)) for parameter in command.params]
        lines += _table(("argument or option", "means"), rows)
    return "\n".join([*lines, ""])


def fleet_file() -> str:
    """Every key of the fleet file, from its JSON Schema."""
    from orchestrator.spec import json_schema

    schema = json.loads(json_schema())
    lines = [
        "# The fleet file",
        "",
        "One YAML file says what is wanted. Unknown keys are refused with a *did you mean*; `prunefleet schema` prints the JSON "
        "Schema, with which editors complete and check.",
    ]
    parts = {"The whole file": schema, **schema["$defs"]}
    for name, part in parts.items():
        lines += ["", f"## {name}", ""]
        if text := part.get("description"):
            lines += [_cell(text), ""]
        required = set(part.get("required", ()))
        rows = [
            (f"`{key}`", _type(value), _default(key, value, required), _cell(value.get("description", "")))
            for key, value in part.get("properties", {}).items()
        ]
        if rows:
            lines += _table(("key", "is", "default", "means"), rows)
    return "\n".join([*lines, ""])


def outputs() -> str:
    """Every key that a command prints with `--json`, from the models that a test holds real outputs to."""
    from orchestrator.outputs import OUTPUTS, schema_of

    lines = [
        "# What --json prints",
        "",
        "On stdout, and nothing else there. Keys may be added; none goes or changes its meaning within a release of the first "
        "number. `prunefleet schema COMMAND` prints the JSON Schema. `query` prints the rows that were asked for.",
    ]
    parts: dict[str, tuple[list[str], Mapping[str, Any]]] = {}
    for command in OUTPUTS:
        schema = schema_of(command)
        own = {name: part for name, part in schema.get("$defs", {}).items() if "properties" in part}
        if "properties" in schema:
            own = {OUTPUTS[command].__name__: schema, **own}
        for name, part in own.items():
            parts.setdefault(name, ([], part))[0].append(f"`{command}`")
    for name, (commands_of, part) in parts.items():
        lines += [
            "",
            f"## {name}",
            "",
            f"{_cell(part.get('description', ''))} In {', '.join(commands_of)}.",
            "",
        ]
        rows = [
            (f"`{key}`", _type(value), _cell(value.get("description", "")))
            for key, value in part["properties"].items()
        ]
        lines += _table(("key", "is", "means"), rows)
    return "\n".join([*lines, ""])


def metrics() -> str:
    """Every metric with its type, labels and meaning, from the table that they are made of."""
    from orchestrator.watching.metrics import FLEET, RUN

    lines = [
        "# Metrics",
        "",
        "Labels come from closed sets and from the fleet file, never from a model's name.",
    ]
    for title, definitions in (
        ("Of a run, while it lives (`run --metrics-port`)", RUN),
        ("Of a fleet, from the exporter that reads the store", FLEET),
    ):
        rows = [
            (f"`{one.name}`", one.kind, ", ".join(f"`{label}`" for label in one.labels), one.help)
            for one in sorted(definitions, key=lambda one: one.name)
        ]
        lines += ["", f"## {title}", "", *_table(("metric", "type", "labels", "means"), rows)]
    return "\n".join([*lines, ""])


def errors() -> str:
    """Exit codes, and the errors that end with each."""
    from orchestrator import errors as module

    rows = [(f"`{code}`", text) for code, text in EXIT_CODES.items()]
    classes = sorted(
        (kind for _, kind in inspect.getmembers(module, inspect.isclass)),
        key=lambda kind: (kind.exit_code, kind.__name__),
    )
    named = [(f"`{kind.__name__}`", f"`{kind.exit_code}`", str(kind.__doc__)) for kind in classes]
    head = ["# Exit codes and errors", "", "Exit codes are never renumbered.", ""]
    return "\n".join(
        [
            *head,
            *_table(("exit code", "means"), rows),
            "",
            "From Python every expected error is a `PrunefleetError`; on the command line it is one message and its code.",
            "",
            *_table(("error", "exit code", "means"), named),
            "",
        ]
    )


def _named(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    return ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))


def _told(parameter: Any) -> str:
    text = _cell(parameter.help or "")
    given = parameter.default
    shown = isinstance(given, str | int | float) and not isinstance(given, bool) and given != ""
    return f"{text} Default: `{given}`." if shown else text


def _type(value: Mapping[str, Any]) -> str:
    if "$ref" in value:
        return value["$ref"].rsplit("/", 1)[1]
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    if several := value.get("anyOf") or value.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(one) for one in several if one.get("type") != "null"))
    if value.get("type") == "array":
        return f"list of {_type(value.get('items', {}))}"
    if isinstance(value.get("additionalProperties"), dict):
        return f"name: {_type(value['additionalProperties'])}"
    return str(value.get("type", "anything"))


def _default(key: str, value: Mapping[str, Any], required: set[str]) -> str:
    if key in required:
        return "required"
    given = value.get("default")
    return "" if given is None else f"`{json.dumps(given)}`"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines]


def _cell(text: str) -> str:
    return " ".join(text.split())

"""Effects. The command `questions`: a benchmark's tasks as a data set's file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.console import say, write_file


def questions(
    tasks: Annotated[
        list[str], typer.Argument(metavar="TASK...", help="Tasks, groups or tags of lm-evaluation-harness.")
    ],
    to: Annotated[Path, typer.Option("--to", help="The file to write, JSON lines; it must not exist.")],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--tasks", help="Look in this folder of your own tasks only; code that they name is run."
        ),
    ] = None,
    shots: Annotated[
        int | None, typer.Option(min=0, help="Examples shown before each question. Default: the task's.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many of each task.")] = None,
    seed: Annotated[int, typer.Option(help="Of the examples that are shown.")] = 0,
) -> None:
    """Turn tasks of lm-evaluation-harness into a data set, once and here, so that workers read text and run nothing."""
    import json

    from orchestrator.errors import UsageError
    from orchestrator.harness import SPLIT, HarnessError, take
    from orchestrator.wording import plain

    if to.exists():
        raise UsageError(f"{to} exists; move it away or choose another name with --to")
    if not to.absolute().parent.is_dir():
        raise UsageError(f"{to} cannot be written: there is no such folder")
    found = take(tasks, folder=folder, shots=shots, limit=limit, seed=seed)
    for each in found:
        say(f"{plain(each.task)}: {len(each.rows)} examples")
        for reason, count in sorted(each.left_out.items()):
            say(f"  {count} left out: {reason}", style="yellow")
        if each.not_measured:
            say(f"  not measured: {plain(', '.join(each.not_measured), 400)}", style="yellow")
    rows = [row for each in found for row in each.rows]
    if not rows:
        raise HarnessError("no example is left, and nothing was written")
    write_file(to, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(), is_new=True)
    kind = found[0].kind
    metric = "accuracy" if kind == "choices" else "perplexity"
    say(f"in a fleet file: {{kind: {kind}, path: {to}, slice_by: task}}, split {SPLIT}, metric {metric}")

"""The command line, typed in this process: a process of its own would load everything anew."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from orchestrator.cli import command_line

Done = subprocess.CompletedProcess[str]


def typed(home: Path, *arguments: object, check: int | None = None) -> Done:
    """How `prunefleet ARGUMENTS` ends in the directory; its children share one warm server. `check`: the exit code that must come."""
    words = ["prunefleet", *map(str, arguments)]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        patch.chdir(home)
        patch.setattr(sys, "argv", words)
        for name, value in surroundings(home).items():
            patch.setenv(name, value)
        with redirect_stderr(io.StringIO()) as talk:
            code = command_line()
    return ended_with(check, subprocess.CompletedProcess(words, code, out.getvalue(), talk.getvalue()))


def ended_with(check: int | None, done: Done) -> Done:
    """What was done, if it ended with this exit code, or any will do."""
    told = f"exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}"
    assert check in (None, done.returncode), told
    return done


def surroundings(home: Path) -> dict[str, str]:
    """The environment that a test's commands have of their own."""
    return {"NO_COLOR": "1", "COLUMNS": "300", "XDG_CACHE_HOME": str(home / "cache")}


def environment(home: Path, **more: str) -> dict[str, str]:
    """All of it, for a process."""
    return {**os.environ, **surroundings(home), **more}

"""Results become rows exactly once with real folders side by side, some of which are killed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cases.folded_rows import CommitUnits, check_exactly_once

from orchestrator.stores.local import LocalStore
from orchestrator.tables.folding import fold

_FOLDER = """
import os, sys
from orchestrator.tables import folding
from orchestrator.spec import StoreSpec
from orchestrator.stores.opening import open_store

folding.BATCH_UNITS = 3
store = open_store(StoreSpec.model_validate_json(sys.argv[1]))
print("here", flush=True)
sys.stdin.readline()
act = folding.rebuild if sys.argv[2] == "rebuild" else folding.fold
for _ in range(int(sys.argv[3])):
    act(store)
"""


def spec_of(store: Any) -> str:
    if isinstance(store, LocalStore):
        return json.dumps({"url": store.url})
    return str(store._spec.model_dump_json())


@pytest.fixture
def start_folder(any_store: Any) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes that fold; each waits for a line on its standard input."""
    started: list[subprocess.Popen[str]] = []

    def start(act: str = "fold", times: int = 1) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _FOLDER, spec_of(any_store), act, str(times)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n", process.stderr.read() if process.stderr else ""
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_processes_that_fold_at_once_fold_each_unit_once(
    any_store: Any, commit_units: CommitUnits, start_folder: Any
) -> None:
    commit_units(any_store, range(8))
    folders = [start_folder(times=2) for _ in range(3)]
    for folder in folders:
        go(folder)
    commit_units(any_store, range(8, 12))
    for folder in folders:
        _, said = folder.communicate(timeout=240)
        assert folder.returncode == 0, said
    fold(any_store)
    check_exactly_once(any_store, 12)


def test_processes_that_fold_and_rebuild_at_once_fold_each_unit_once(
    any_store: Any, commit_units: CommitUnits, start_folder: Any
) -> None:
    commit_units(any_store, range(4))
    fold(any_store)
    commit_units(any_store, range(4, 8))
    folders = [start_folder(), start_folder("rebuild"), start_folder(times=2)]
    for folder in folders:
        go(folder)
    for folder in folders:
        _, said = folder.communicate(timeout=240)
        assert folder.returncode == 0, said
    fold(any_store)
    check_exactly_once(any_store, 8)


def test_killed_folders_lose_and_double_nothing(
    any_store: Any, commit_units: CommitUnits, start_folder: Any
) -> None:
    commit_units(any_store, range(12))
    generator = random.Random(1)
    for _ in range(3):
        folder = start_folder()
        go(folder)
        time.sleep(generator.uniform(0.1, 0.9))
        folder.kill()
    fold(any_store)
    check_exactly_once(any_store, 12)

"""A body in a child process: its answer comes back, its death is told from that of its parent, and it outlives nobody."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import bodies
import psutil
import pytest

from orchestrator.backends import children
from orchestrator.domain import Failure, FailureClass

PARENT = """
import sys
import bodies
from orchestrator.backends import children
if __name__ == "__main__":
    print(children.run_apart(bodies.act, {"keys": ["a"], "do": "sleep", "file": sys.argv[1]}))
"""


WITHOUT_A_GUARD = """
import multiprocessing
import sys
import bodies
from orchestrator.backends import children
print("begun")
context = multiprocessing.get_context(sys.argv[1])
print([report.key for report in children.hear(*children.start(context, bodies.act, {"keys": ["a"]}))[0]])
import __main__
print(__main__.context is context)
"""


@pytest.fixture(params=["spawn", "forkserver"])
def answer(request):
    """`answer(**payload)` of a child that acts so."""

    def ask(**payload):
        context = multiprocessing.get_context(request.param)
        return children.hear(*children.start(context, bodies.act, {"keys": ["a", "b"], **payload}))[0]

    return ask


def until(holds):
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_over(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_its_reports_come_back(answer):
    assert [report.key for report in answer()] == ["a", "b"]


@pytest.mark.parametrize("kind", ["spawn", "forkserver"])
def test_a_script_without_a_guard_is_not_run_again_in_its_children(kind, tmp_path):
    (tmp_path / "script.py").write_text(WITHOUT_A_GUARD)
    path = os.pathsep.join([str(Path(bodies.__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", kind],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["begun", "['a']", "True"], done.stderr[-2000:]


def test_what_it_raises_is_an_internal_failure(answer):
    failure = answer(do="raise")
    assert isinstance(failure, Failure)
    assert failure.failure_class is FailureClass.INTERNAL
    assert "the body itself broke" in failure.error


def test_it_has_the_environment_of_the_moment_in_which_it_starts(answer, tmp_path, monkeypatch):
    file = tmp_path / "told"
    for value in ("first", "second", None):
        monkeypatch.setenv("TOLD", value) if value else monkeypatch.delenv("TOLD")
        answer(do="tell", variable="TOLD", file=str(file))
        assert file.read_text() == (value or "nothing")


@pytest.mark.parametrize(("act", "words"), [("die", "exit code 13"), ("crash", "exit code -11, SIGSEGV")])
def test_its_death_is_poison_and_says_how_it_died(answer, act, words):
    failure = answer(do=act)
    assert failure.failure_class is FailureClass.POISON
    assert words in failure.error


def test_apart_it_is_another_process_that_does_the_same(tmp_path):
    file = tmp_path / "pid"
    reports = children.run_apart(bodies.act, {"keys": ["a"], "do": "sleep", "seconds": 0, "file": str(file)})
    assert [report.key for report in reports] == ["a"]
    assert int(file.read_text()) != os.getpid()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_whoever_started_it(tmp_path, number):
    file = tmp_path / "pid"
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    paths = os.pathsep.join([str(Path(bodies.__file__).parent), *sys.path])
    parent = subprocess.Popen([sys.executable, script, file], env={**os.environ, "PYTHONPATH": paths})
    until(lambda: file.exists() and file.read_text())
    child = psutil.Process(int(file.read_text()))
    parent.send_signal(number)
    assert parent.wait() == -number
    until(lambda: is_over(child))
    assert is_over(child)

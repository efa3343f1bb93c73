"""Scratch directories end with their processes, however those end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from orchestrator.scratch import PREFIX, scratch_directory

HOLDER = """
import sys
from orchestrator.scratch import scratch_directory
with scratch_directory() as path:
    (path / "half-written").write_bytes(b"x" * 1000)
    print(path, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The machine's temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def start():
    """Starts a process with a scratch directory: the process, and the directory."""
    started = []

    def holder():
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process, Path(process.stdout.readline().strip())

    yield holder
    for process in started:
        process.kill()
        process.communicate()


def test_it_is_empty_and_gone_afterwards(temporary):
    with scratch_directory() as path:
        assert list(path.iterdir()) == []
        assert path.parent == temporary
        (path / "deep").mkdir()
        (path / "deep" / "file").write_text("x")
    assert list(temporary.iterdir()) == []


def test_it_goes_when_the_block_fails(temporary):
    with pytest.raises(ZeroDivisionError), scratch_directory():
        _ = 1 / 0
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_the_next_one_removes(temporary, start):
    process, path = start()
    assert (path / "half-written").exists()
    process.kill()
    process.wait()
    assert path.exists()
    with scratch_directory() as ours:
        assert list(temporary.iterdir()) == [ours]


def test_that_of_a_living_process_stays(start):
    process, path = start()
    with scratch_directory() as ours:
        assert ours != path
        assert (path / "half-written").exists()
    assert (path / "half-written").exists()
    process.communicate("")
    assert not path.exists()


def test_many_at_once_leave_each_other_alone(temporary):
    problems = []

    def work():
        for number in range(50):
            with scratch_directory() as path:
                (path / str(number)).write_text("x")
                if not (path / str(number)).exists():
                    problems.append(path)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert list(temporary.iterdir()) == []


def test_links_and_files_of_that_name_are_not_touched(temporary):
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("x")
    (temporary / f"{PREFIX}link").symlink_to(elsewhere)
    (temporary / f"{PREFIX}file").write_text("x")
    with scratch_directory():
        pass
    assert (elsewhere / "kept").read_text() == "x"
    assert sorted(path.name for path in temporary.iterdir()) == [
        "elsewhere", f"{PREFIX}file", f"{PREFIX}link"
    ]  # fmt: skip


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make another's directory")
def test_a_strangers_directory_is_not_touched(temporary):
    stranger = temporary / f"{PREFIX}stranger"
    stranger.mkdir()
    os.chown(stranger, 65534, 65534)
    with scratch_directory():
        pass
    assert stranger.is_dir()

"""However a command's process is left, its exit code and its output are those of the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).parent / "prunefleet"

WITH_AN_EXIT_FUNCTION = """
import atexit, sys
atexit.register(print, "farewell")
from orchestrator.cli import main
sys.argv = ["prunefleet", *sys.argv[1:]]
main()
"""

# A thread of Arrow's, not Python's, is in the middle of a file when the command is over.
WITH_A_READER = """
import io, sys, threading, time
import pyarrow as pa
import pyarrow.parquet as pq

begun = threading.Event()

class Slow(io.BytesIO):
    def read(self, size=-1):
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            time.sleep(0.5)
        return super().read(size)

buffer = io.BytesIO()
pq.write_table(pa.table({"number": range(10)}), buffer)
file = pq.ParquetFile(pa.PythonFile(Slow(buffer.getvalue()), mode="r"), pre_buffer=True)
threading.Thread(target=file.read, daemon=True).start()
assert begun.wait(60)
del file
from orchestrator.cli import main
sys.argv = ["prunefleet", *sys.argv[1:]]
main()
"""


def python(code, *arguments, **more):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, **more
    )


@pytest.mark.parametrize("code", [WITH_AN_EXIT_FUNCTION, WITH_A_READER])
@pytest.mark.parametrize(
    ("arguments", "exit_code"), [(["schema"], 0), (["no-such-command"], 2), (["plan", "no-such-file"], 2)]
)
def test_the_exit_code_is_that_of_the_command(code, arguments, exit_code):
    done = python(code, *arguments)
    assert done.returncode == exit_code, done.stderr


def test_what_libraries_do_at_the_end_is_done_and_all_output_comes_through():
    done = python(WITH_AN_EXIT_FUNCTION, "schema")
    assert done.stdout.endswith("}\nfarewell\n")


def test_a_reader_who_has_had_enough_is_no_error():
    shell = f"{COMMAND} schema | head -n 1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[0] == "{"
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    "arguments",
    [["schema"], ["--version"], ["status", "--json"], ["query", "SELECT 1"], ["query", "SELECT 1", "--csv"]],
)
def test_output_that_cannot_be_written_is_one_error_and_no_traceback(arguments, tmp_path):
    where = ["--store", str(tmp_path)] if arguments[0] in ("status", "query") else []
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [COMMAND, *arguments, *where], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert done.returncode == 74
    assert (
        done.stderr
        == f"prunefleet: stdout cannot be written: {os.strerror(28)}; what was printed is cut off\n"
    )


@pytest.mark.parametrize(
    ("redirected", "exit_code", "prints"),
    [
        ("schema >&-", 0, False),
        ("schema 2>&-", 0, True),
        ("schema <&- 2>&-", 0, True),
        ("nope <&- >&- 2>&-", 2, False),
        pytest.param(
            "nope 2>/dev/full", 2, False,
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full"),
        ),
    ],
)  # fmt: skip
def test_a_stream_that_is_closed_or_full_of_talk_changes_nothing_else(redirected, exit_code, prints):
    done = subprocess.run(
        ["bash", "-c", f"{COMMAND} {redirected}"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, bool(done.stdout), done.stderr) == (exit_code, prints, "")


SIGNALS_IN_THE_MIDST_OF_TALK = """
import signal, sys
from orchestrator.commands.streams import guard_streams

guard_streams()
heard = 0

def heed(number, frame):
    global heard
    heard += 1
    print("stopped", file=sys.stderr)

signal.signal(signal.SIGALRM, heed)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
for line in range(30_000):
    print("waits", line, file=sys.stderr)
signal.setitimer(signal.ITIMER_REAL, 0)
print(heard)
"""


def test_a_signal_that_comes_while_stderr_is_written_may_speak_there():
    done = python(SIGNALS_IN_THE_MIDST_OF_TALK)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stderr.count("stopped") == int(done.stdout) > 10
    assert done.stderr.count("waits") == 30_000


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_without_a_character_is_told_its_number_and_json_stays_json(encoding, tmp_path):
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "status.json").write_text('{"fleet": "Zürich − 🦙"}', encoding="utf-8")
    told = {}
    for form in ("", "--json"):
        told[form] = subprocess.run(
            [str(COMMAND), "status", "--store", ".", *filter(None, [form])],
            cwd=tmp_path, capture_output=True, timeout=120, env={**os.environ, "PYTHONIOENCODING": encoding},
        )  # fmt: skip
        assert (told[form].returncode, told[form].stderr) == (0, b"")
    assert "rich − 🦙".encode(encoding, "backslashreplace") in told[""].stdout
    assert json.loads(told["--json"].stdout.decode(encoding))[0]["fleet"] == "Zürich − 🦙"


def test_an_answer_in_a_pipe_is_aligned_whatever_it_holds(tmp_path):
    done = python(
        "from orchestrator.cli import main; main()",
        "query", "SELECT * FROM (VALUES ('界', 1.5), ('[red]a', NULL), (chr(27), 2)) AS t(name, \"a b\")", "--store", str(tmp_path),
    )  # fmt: skip
    assert done.stdout.splitlines() == ["name    a b", "界      1.5", "[red]a     ", "\\u001b  2.0"]


def test_the_id_of_a_run_can_be_copied_from_a_narrow_terminal(tmp_path):
    run = "20260102T030405-abcdef"
    (tmp_path / "runs" / run).mkdir(parents=True)
    (tmp_path / "runs" / run / "status.json").write_text('{"fleet": "a-fleet-with-a-long-name"}')
    code = f"import os, pty; os.environ['COLUMNS'] = '40'; pty.spawn([{str(COMMAND)!r}, 'status', '--store', '.'])"
    assert run in python(code, cwd=tmp_path).stdout


def test_a_number_that_json_has_not_is_null(tmp_path):
    done = python(
        "from orchestrator.cli import main; main()",
        "query", "SELECT 'NaN'::DOUBLE AS a, ['inf'::DOUBLE, 1.5] AS b", "--json", "--store", str(tmp_path),
    )  # fmt: skip
    assert json.loads(done.stdout, parse_constant=pytest.fail) == [{"a": None, "b": [None, 1.5]}]

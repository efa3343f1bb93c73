"""What fills, asks and looks at a node cache: in this process, and in others that may be killed."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from orchestrator.node_cache import NodeCache

SCRIPT = """
import os, sys
from pathlib import Path
from orchestrator.node_cache import NodeCache

root, digest, limit, size, log, manner = sys.argv[1:]
cache = NodeCache(Path(root), int(limit))

def say(word):
    print(word, flush=True)

def fill(into):
    with open(log, "a") as stream:
        stream.write(f"{os.getpid()}\\n")
    (into / "weights").write_bytes(b"x" * (int(size) // 2))
    if manner == "pause":
        say("half")
        sys.stdin.readline()
    with (into / "weights").open("ab") as stream:
        stream.write(b"x" * (int(size) - int(size) // 2))

say("ready")
sys.stdin.readline()
with cache.hold(digest, int(size), fill) as path:
    say(str((path / "weights").stat().st_size))
    sys.stdin.readline()
    say(str((path / "weights").stat().st_size))
"""


class Asker:
    """A process that asks the cache for one entry, step by step."""

    def __init__(
        self, root: Path, digest: str, log: Path, *, limit: int = 10**9, size: int = 1000, manner: str = "go"
    ):
        arguments = [sys.executable, "-c", SCRIPT, str(root), digest, str(limit), str(size), str(log), manner]
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )

    def hears(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def goes_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def dies(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def named(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def writes(size: int, name: str = "weights"):
    def fill(into: Path) -> None:
        (into / name).write_bytes(b"x" * size)

    return fill


def never(into: Path) -> None:
    raise AssertionError(f"{into} was to be filled although it is there")


def entries(root: Path) -> set[str]:
    return {name for name in os.listdir(root) if not name.startswith(".")}


def leftovers(root: Path) -> list[str]:
    return [name for name in os.listdir(root) if name.startswith((".fill", ".trash"))]


def put(cache: NodeCache, name: str, size: int) -> str:
    """Fills an entry, and waits until the file system's clock has moved on, so that uses have an order."""
    digest = named(name)
    with cache.hold(digest, size, writes(size)):
        pass
    tick(cache._root)
    return digest


def tick(root: Path) -> None:
    clock = root / ".clock"
    clock.touch()
    before = clock.stat().st_mtime_ns
    while clock.stat().st_mtime_ns == before:
        os.utime(clock)


def used_bytes(root: Path) -> int:
    """Bytes of all complete entries."""
    return sum(
        path.stat().st_size for name in entries(root) for path in (root / name).rglob("*") if path.is_file()
    )

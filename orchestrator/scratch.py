"""Effects. A directory for the files of one process, which goes with it: what a killed one left, the next one removes.

Whoever works in one holds the kernel's lock on it, which ends with the process. Its name is its own only once it is locked.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "prunefleet-scratch-"


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """An empty directory among the machine's temporary files, there until the block ends."""
    _sweep(Path(tempfile.gettempdir()))
    unnamed = Path(tempfile.mkdtemp(prefix=f".{PREFIX}"))
    lock = os.open(unnamed, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = unnamed.rename(unnamed.with_name(unnamed.name.removeprefix(".")))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)


def _sweep(root: Path) -> None:
    for path in root.glob(f"{PREFIX}*"):
        with suppress(OSError):  # gone meanwhile, in use, or none of ours
            number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(number).st_uid == os.getuid():
                    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(number)

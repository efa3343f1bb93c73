"""Effects. Directories of regular files: what is in them, their digests, and making them last."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from orchestrator.names import shown
from tasks.contract import BadInput


def regular_files(directory: Path) -> list[str]:
    """Relative paths of all files, in order. Errors: BadInput, if anything else than files and directories is there."""
    found = []
    for parent, directories, names in os.walk(directory, onerror=_raise):
        for name in (*names, *(name for name in directories if os.path.islink(os.path.join(parent, name)))):
            path = Path(parent, name)
            if not stat.S_ISREG(path.lstat().st_mode):
                raise BadInput(
                    "the directory cannot be kept",
                    why="it is a link, a pipe or a device",
                    do="Put a regular file there.",
                    file=shown(str(path.relative_to(directory))),
                )
            found.append(path.relative_to(directory).as_posix())
    return sorted(found)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_tree(directory: Path) -> None:
    """Returns when every file and directory below is on the disk."""
    for parent, _, names in os.walk(directory, topdown=False, onerror=_raise):
        for name in names:
            _sync(Path(parent, name), os.O_RDONLY)
        sync_directory(Path(parent))


def sync_directory(directory: Path) -> None:
    """Returns when the directory's list of names is on the disk."""
    _sync(directory, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raise(error: OSError) -> None:
    raise error

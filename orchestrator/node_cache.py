"""Effects. What a node keeps of models and data: by content, filled once, bounded, never taken from under a holder.

On disk: `<root>/<digest>/` is a complete, read-only entry (the rename is what completes it). `.locks/<digest>` is its
lock: shared by holders, exclusive for whoever removes it; its modification time says when the entry was last used.
`.locks/<digest>.fill` is held by whoever fills it. The kernel gives both back when their owner dies.
`.fill.<digest>.<bytes>.…` is being filled and promises so many bytes; `.trash.…` is being removed. `.lock` is held while
room is made, so that promises add up.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from orchestrator.durable import regular_files, sync_directory, sync_tree
from orchestrator.errors import BrokenInvariant
from orchestrator.names import is_sha256

logger = logging.getLogger(__name__)

_FILL, _TRASH = ".fill.", ".trash."
_FULL = (errno.ENOSPC, errno.EDQUOT)


class NodeCache:
    """Entries by digest under one directory; every process of the node may open its own `NodeCache` on it.

    Entries in use are never removed, so what is in use at once may exceed the limit; nothing else may.
    """

    def __init__(self, root: Path, limit_bytes: int):
        self._root, self._limit = root, limit_bytes
        self._sizes: dict[str, int] = {}
        (root / ".locks").mkdir(parents=True, exist_ok=True)

    @contextmanager
    def hold(self, digest: str, size_bytes: int, fill: Callable[[Path], None]) -> Iterator[Path]:
        """The entry's directory, filled by `fill(empty directory)` if it is not there, kept until the block ends.

        Waits while another process fills it; if that one dies, fills it itself. `size_bytes` is what `fill` will need.
        Errors: those of `fill`; OSError with ENOSPC or EDQUOT, saying how much room is missing.
        """
        if not is_sha256(digest):
            raise BrokenInvariant(f"{digest!r} does not name a cache entry: 64 hex digits do")
        with self._held(digest, size_bytes, fill) as lock:
            os.utime(lock)
            try:
                yield self._root / digest
            finally:
                os.utime(lock)

    @contextmanager
    def _held(self, digest: str, size_bytes: int, fill: Callable[[Path], None]) -> Iterator[int]:
        """A shared lock on a complete entry."""
        while True:
            with self._locked(digest, fcntl.LOCK_SH) as lock:
                if lock is not None and self._is_complete(digest):
                    yield lock
                    return
            with ExitStack() as held:
                with self._filling(digest):
                    if self._is_complete(digest):
                        continue
                    lock = self._fill(digest, size_bytes, fill, held)
                yield lock
                return

    def _fill(self, digest: str, size_bytes: int, fill: Callable[[Path], None], held: ExitStack) -> int:
        """Fills the entry, for a caller who is alone in doing so; a shared lock on it, taken before anybody sees it."""
        aside = self._root / f"{_FILL}{digest}.{size_bytes}.{secrets.token_hex(4)}"
        try:
            with self._everything():
                self._sweep(digest)
                self._make_room(size_bytes)
                aside.mkdir()
            fill(aside)
            _seal(aside)
            lock = held.enter_context(self._locked(digest, fcntl.LOCK_SH))
            os.rename(aside, self._root / digest)
            sync_directory(self._root)
        except OSError as error:
            _delete(aside)
            if error.errno not in _FULL:
                raise
            raise OSError(error.errno, self._what_is_missing(size_bytes), str(self._root)) from error
        except BaseException:
            _delete(aside)
            raise
        if self._size(digest) > size_bytes:
            with self._everything():
                self._make_room(0)
        assert lock is not None
        return lock

    def _sweep(self, digest: str) -> None:
        """Removes what dead processes left half filled or half removed; the caller is filling `digest` and holds `.lock`."""
        for name in os.listdir(self._root):
            if name.startswith(_FILL):
                owner = name.split(".")[2]
                if owner == digest or self._is_orphan(owner):
                    _delete(self._root / name)
            elif name.startswith(_TRASH):
                _delete(self._root / name)

    def _make_room(self, size_bytes: int) -> None:
        """Removes what was not used for longest until so much more fits; the caller holds `.lock`."""
        sizes = self._sizes_now()
        promised = sum(int(name.split(".")[3]) for name in os.listdir(self._root) if name.startswith(_FILL))
        excess = sum(sizes.values()) + promised + size_bytes - self._limit
        missing = size_bytes - _free_bytes(self._root)
        if max(excess, missing) <= 0:
            return
        for name in sorted(sizes, key=self._last_used):
            if self._remove(name):
                excess, missing = excess - sizes[name], missing - sizes[name]
                if max(excess, missing) <= 0:
                    return
        if missing > 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _remove(self, digest: str) -> bool:
        """Removes an entry unless somebody holds it; the caller holds `.lock`."""
        with self._locked(digest, fcntl.LOCK_EX | fcntl.LOCK_NB) as lock:
            if lock is None or not self._is_complete(digest):
                return False
            trash = self._root / f"{_TRASH}{secrets.token_hex(8)}"
            os.rename(self._root / digest, trash)
            os.unlink(self._root / ".locks" / digest)
        self._sizes.pop(digest, None)
        _delete(trash)
        logger.info("cache entry removed", extra={"digest": digest})
        return True

    @contextmanager
    def _filling(self, digest: str) -> Iterator[None]:
        """Alone in filling this entry; its lock is not that of the holders, who may stay for hours once it is filled."""
        name = f"{digest}.fill"
        with self._locked(name, fcntl.LOCK_EX):
            try:
                yield
            finally:
                (self._root / ".locks" / name).unlink(missing_ok=True)

    def _is_orphan(self, digest: str) -> bool:
        """Whether nobody is filling this entry any more."""
        name = f"{digest}.fill"
        with self._locked(name, fcntl.LOCK_EX | fcntl.LOCK_NB) as lock:
            if lock is not None:
                (self._root / ".locks" / name).unlink(missing_ok=True)
            return lock is not None

    @contextmanager
    def _locked(self, name: str, how: int) -> Iterator[int | None]:
        """One of the locks; None if it is taken and `how` says not to wait.

        Lock files are removed by who has them alone, so a lock counts only if its file is still the one there.
        """
        path = self._root / ".locks" / name
        while True:
            with _lock_file(path, how) as lock:
                if lock is None or _is_still_there(lock, path):
                    yield lock
                    return

    @contextmanager
    def _everything(self) -> Iterator[None]:
        with _lock_file(self._root / ".lock", fcntl.LOCK_EX):
            yield

    def _sizes_now(self) -> dict[str, int]:
        return {name: self._size(name) for name in os.listdir(self._root) if is_sha256(name)}

    def _is_complete(self, digest: str) -> bool:
        return (self._root / digest).is_dir()

    def _size(self, digest: str) -> int:
        """An entry never changes, so it is measured once."""
        if digest not in self._sizes:
            entry = self._root / digest
            self._sizes[digest] = sum(os.lstat(entry / path).st_size for path in regular_files(entry))
        return self._sizes[digest]

    def _last_used(self, digest: str) -> int:
        try:
            return os.stat(self._root / ".locks" / digest).st_mtime_ns
        except FileNotFoundError:
            return 0

    def _what_is_missing(self, size_bytes: int) -> str:
        return (
            f"the node cache needs {size_bytes} bytes and its disk has {_free_bytes(self._root)} free, with every entry "
            "removed that is not in use; give it a larger disk, or run fewer models on a node at once"
        )


@contextmanager
def _lock_file(path: Path, how: int) -> Iterator[int | None]:
    """A locked descriptor of this file; None if somebody else has it and `how` says not to wait."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(lock, how)
        except BlockingIOError:
            yield None
            return
        try:
            yield lock
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough where a child process inherited it
    finally:
        os.close(lock)


def _is_still_there(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except FileNotFoundError:
        return False


def _seal(directory: Path) -> None:
    """Makes all of it durable and read-only."""
    for path in regular_files(directory):
        os.chmod(directory / path, 0o444)
    sync_tree(directory)
    for parent, _, _ in os.walk(directory, topdown=False):
        os.chmod(parent, 0o555)


def _delete(directory: Path) -> None:
    """Removes a directory, read-only parts too; another process may be doing the same."""
    for parent, _, _ in os.walk(directory):
        with suppress(FileNotFoundError):
            os.chmod(parent, 0o755)
    shutil.rmtree(directory, ignore_errors=True)


def _free_bytes(path: Path) -> int:
    free = os.statvfs(path)
    return free.f_bavail * free.f_frsize

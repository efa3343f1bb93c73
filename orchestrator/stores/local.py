"""Effects. Objects as files under a directory: written aside, flushed, then renamed or linked into place."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import shutil
import stat as modes
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from orchestrator.errors import NotFound, NotPermitted, StoreError
from orchestrator.ports import Stat
from orchestrator.stores.keys import (
    MAX_SWAP_BYTES,
    RESERVED,
    check_folder,
    check_key,
    check_prefix,
    check_swapped,
    problem_of,
)

_COPY_BYTES = 1 << 20
_LOCK = f"{RESERVED}lock"
_HINTS = {
    errno.ENOSPC: "the disk is full; free space there or move the store",
    errno.EDQUOT: "the disk quota is used up; free space there or move the store",
    errno.ENOLCK: "the file system has no locks; use a local disk or an S3 store",
    errno.ENOTSUP: "the file system has no hard links or locks; use a local disk or an S3 store",
    errno.ELOOP: "a symbolic link stands there; the store never follows one",
    errno.ENOTDIR: "another object's key is the beginning of this one; a directory cannot hold both",
    errno.EISDIR: "other objects' keys begin with this one; a directory cannot hold both",
    errno.EMFILE: "too many files are open; raise `ulimit -n`",
}


class LocalStore:
    """An ObjectStore in a directory, which is made by the first write."""

    def __init__(self, root: Path):
        self._root = Path(os.path.realpath(root))

    @property
    def url(self) -> str:
        """The directory's absolute path."""
        return str(self._root)

    def get(self, key: str) -> bytes:
        """The whole object."""
        with self._explained(f"read {key}"), self._open(key) as file:
            return file.read()

    def put(self, key: str, data: bytes) -> None:
        """Writes or overwrites, atomically for readers."""
        self._put(key, io.BytesIO(data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Creates by a hard link, which fails where the name is taken; False if it was."""
        with self._explained(f"create {key}"), self._written(key, io.BytesIO(data)) as (aside, path):
            try:
                os.link(aside, path, follow_symlinks=False)
            except FileExistsError:
                return False
            except PermissionError as error:  # what Linux answers where there are no hard links
                raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP), str(path)) from error
            _flush_directory(path.parent)
            return True

    def swap(self, key: str, data: bytes, etag: str | None) -> str | None:
        """Replaces under the store's lock only what still has this etag; the new etag, or None if it lost."""
        check_swapped(key, data, etag)
        if etag is None:
            return _etag_of(data) if self.put_if_absent(key, data) else None
        with self._explained(f"swap {key}"), self._written(key, io.BytesIO(data)) as (aside, path):
            with self._lock(fcntl.LOCK_EX):
                current = self.stat(key)
                if current is None or current.etag != etag:
                    return None
                os.replace(aside, path)
                _flush_directory(path.parent)
            return _etag_of(data)

    def stat(self, key: str) -> Stat | None:
        """Size and etag: SHA-256 of up to 1 MiB, beyond that size, time and inode."""
        try:
            with self._explained(f"read {key}"), self._open(key) as file:
                status = os.fstat(file.fileno())
                etag = _etag_of(file.read()) if status.st_size <= MAX_SWAP_BYTES else _etag_of_large(status)
        except NotFound:
            return None
        return Stat(key=key, bytes=status.st_size, etag=etag, modified=status.st_mtime)

    def list(self, prefix: str) -> Iterator[Stat]:
        """Every object whose key starts with `prefix`, in key order, without etags."""
        directory, _, name = check_prefix(prefix).rpartition("/")
        with self._explained(f"list {prefix}"):
            yield from self._walk(
                self._inside(self._root / directory), f"{directory}/" if directory else "", name
            )

    def folders(self, prefix: str) -> Iterator[str]:
        """The directories directly below, as far as there is an object in them."""
        directory = self._inside(self._root / check_folder(prefix))
        with self._explained(f"list {prefix}"), suppress(FileNotFoundError, NotADirectoryError):
            with os.scandir(directory) as entries:
                names = [f"{entry.name}/" for entry in entries if entry.is_dir(follow_symlinks=False)]
            for name in sorted(names, key=os.fsencode):
                if next(self._walk(directory / name, prefix + name, ""), None):
                    yield name.removesuffix("/")

    def delete(self, key: str) -> None:
        """Removes the object; no error if it is not there."""
        path = self._path(key)
        if not os.path.lexists(path):
            return
        with self._explained(f"delete {key}"):
            try:
                with self._lock(fcntl.LOCK_SH):
                    path.unlink()
                    _flush_directory(path.parent)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return

    def upload(self, path: Path, key: str) -> None:
        """Copies a file of any size into the store."""
        with self._explained(f"upload {path} to {key}"), path.open("rb") as source:
            self._put(key, source)

    def download(self, key: str, path: Path) -> None:
        """Copies an object of any size to a new file, which appears when it is whole."""
        aside = path.with_name(f"{RESERVED}{uuid.uuid4().hex}")
        with self._explained(f"download {key} to {path}"), self._open(key) as source:
            try:
                with aside.open("xb") as target:
                    shutil.copyfileobj(source, target, _COPY_BYTES)
                os.replace(aside, path)
            finally:
                aside.unlink(missing_ok=True)

    def delta(self, name: str) -> tuple[str, dict[str, str]]:
        """Where deltalake finds the table `name`, and the options that it needs."""
        return str(self._root / check_key(f"tables/{name}")), {}

    def leftovers(self, before: float) -> Iterator[Path]:
        """Files that killed writers left aside, older than `before` (seconds since the epoch)."""
        for folder, _, names in os.walk(self._root):
            for name in names:
                path = Path(folder, name)
                if name.startswith(RESERVED) and name != _LOCK and path.lstat().st_mtime < before:
                    yield path

    def tidy(self, prefix: str) -> None:
        """Removes the directory of a prefix that ends with a slash, and those below it, as far as they are empty."""
        for folder, _, _ in os.walk(self._inside(self._root / check_prefix(prefix)), topdown=False):
            with suppress(OSError):
                os.rmdir(folder)

    def _put(self, key: str, source: BinaryIO) -> None:
        with self._explained(f"write {key}"), self._written(key, source) as (aside, path):
            with self._lock(fcntl.LOCK_SH):
                os.replace(aside, path)
            _flush_directory(path.parent)

    @contextmanager
    def _written(self, key: str, source: BinaryIO) -> Iterator[tuple[Path, Path]]:
        """The bytes in a flushed file beside the object's place, and that place."""
        path = self._path(key)
        _make_directory(path.parent)
        aside = path.with_name(f"{RESERVED}{uuid.uuid4().hex}")
        try:
            with aside.open("xb") as file:
                shutil.copyfileobj(source, file, _COPY_BYTES)
                file.flush()
                os.fsync(file.fileno())
            yield aside, path
        finally:
            aside.unlink(missing_ok=True)

    @contextmanager
    def _open(self, key: str) -> Iterator[BinaryIO]:
        path = self._path(key)
        try:
            number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"there is no {key} in {self.url}") from None
        if not modes.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise NotFound(f"there is no {key} in {self.url}: {path} is no regular file")
        with open(number, "rb") as file:
            yield file

    @contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        """Shared by plain writes, exclusive for a swap, so that no write falls between its look and its replacement."""
        _make_directory(self._root)
        with (self._root / _LOCK).open("ab") as file:
            fcntl.flock(file, kind)
            yield

    def _path(self, key: str) -> Path:
        path = self._root / check_key(key)
        self._inside(path.parent)
        return path

    def _inside(self, directory: Path) -> Path:
        if os.path.realpath(directory) != str(directory):
            raise StoreError(f"{directory} passes through a symbolic link; the store never follows one")
        return directory

    def _walk(self, directory: Path, above: str, beginning: str) -> Iterator[Stat]:
        try:
            with os.scandir(directory) as entries:
                found = [entry for entry in entries if entry.name.startswith(beginning)]
        except (FileNotFoundError, NotADirectoryError):
            return
        named = {f"{e.name}/" if e.is_dir(follow_symlinks=False) else e.name: e for e in found}
        for name in sorted(named, key=os.fsencode):
            key = above + name.removesuffix("/")
            if problem_of(key):
                continue
            if name.endswith("/"):
                yield from self._walk(directory / name, above + name, "")
            elif named[name].is_file(follow_symlinks=False):
                try:
                    status = named[name].stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield Stat(key=key, bytes=status.st_size, etag="", modified=status.st_mtime)

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            file = f" ({error.filename})" if error.filename else ""
            where = f"cannot {action} in {self.url}: {error.strerror}{file}"
            if isinstance(error, PermissionError) or error.errno == errno.EROFS:
                raise NotPermitted(f"{where}; check who may write and read there") from error
            hint = _HINTS.get(error.errno or 0)
            raise StoreError(f"{where}; {hint}" if hint else where) from error


def _etag_of(data: bytes) -> str:
    """What a stat of an object with these bytes says, up to the size that is hashed."""
    return hashlib.sha256(data).hexdigest()


def _etag_of_large(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"


def _make_directory(path: Path) -> None:
    """Makes a directory and what is above it, so that they outlast a power cut."""
    if path.is_dir():
        return
    _make_directory(path.parent)
    path.mkdir(exist_ok=True)
    _flush_directory(path.parent)


def _flush_directory(path: Path) -> None:
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)

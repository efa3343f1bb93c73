"""Effects. Writes into a directory of models: never outside it, never through a link, whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from orchestrator.durable import sync_tree
from orchestrator.errors import NotPermitted, RegistryError
from orchestrator.names import folding, problem_of_part, problem_of_path, shown
from orchestrator.registries.tree import OURS, open_below, open_root, path_of

_LOCK = f"{OURS}lock"


@contextmanager
def locked_model(root: Path, name: str, *, make: bool) -> Iterator[int]:
    """The directory of a model's versions, for this process alone as long as the block lasts; made if `make`.

    Errors: RegistryError (a hostile name, no such directory, a link or a file in the way), NotPermitted.
    """
    if why := problem_of_path(name):
        raise RegistryError(f"{shown(name)!r} cannot be the name of a model: {why}")
    parts = name.split("/")
    with ExitStack() as opened:
        with explained(f"the directory of {name} in {root} cannot be used"):
            if make:
                root.mkdir(parents=True, exist_ok=True)
            directory = opened.enter_context(open_root(root))
            if make:
                _make_below(directory, parts)
            model = opened.enter_context(open_below(directory, parts))
            lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644, dir_fd=model)
            opened.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield model


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns an error of the file system into one that says what it prevents. Errors: NotPermitted, RegistryError."""
    try:
        yield
    except PermissionError as error:
        raise NotPermitted(f"{what}: {error.strerror}") from error
    except OSError as error:
        hint = "; a link or a file is in the way" if error.errno in (errno.ENOTDIR, errno.ELOOP) else ""
        raise RegistryError(f"{what}: {error.strerror}{hint}") from error


def has_version(model: int, version: str) -> bool:
    """Whether a model's directory has such a version. Errors: RegistryError, if something else has its name."""
    if why := problem_of_part(version):
        raise RegistryError(f"{shown(version)!r} cannot be a version: {why}")
    try:
        status = os.stat(version, dir_fd=model, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(status.st_mode):
        raise RegistryError(f"where the version {version} belongs is a link or a file; remove it")
    return True


def place_version(model: int, version: str, fill: Callable[[Path], None]) -> None:
    """Makes a version from what `fill(empty directory)` writes; the caller has the model's lock."""
    aside = f"{OURS}{secrets.token_hex(8)}"
    with explained(f"the version {version} cannot be written"):
        _sweep(model)
        _refuse_clash(model, version)
        os.mkdir(aside, dir_fd=model)
        try:
            fill(path_of(model) / aside)
            sync_tree(path_of(model) / aside)
            os.rename(aside, version, src_dir_fd=model, dst_dir_fd=model)
        finally:
            shutil.rmtree(path_of(model) / aside, ignore_errors=True)
        os.fsync(model)


def replace_file(directory: int, name: str, data: bytes) -> None:
    """Rewrites a file so that readers see the old or the new one, and a power cut leaves one of them."""
    aside = f"{OURS}{secrets.token_hex(8)}"
    with explained(f"{name} cannot be written"):
        descriptor = os.open(
            aside,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW,
            0o644,
            dir_fd=directory,
        )
        try:
            with open(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.rename(aside, name, src_dir_fd=directory, dst_dir_fd=directory)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(aside, dir_fd=directory)
        os.fsync(directory)


def read_file(directory: int, name: str, max_bytes: int) -> bytes | None:
    """A small regular file, or None if there is none. Errors: RegistryError."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with explained(f"{name} cannot be read"):
        try:
            descriptor = os.open(name, flags, dir_fd=directory)
        except FileNotFoundError:
            return None
    with open(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
            raise RegistryError(f"{name} is not a regular file of at most {max_bytes} bytes; remove it")
        return stream.read(max_bytes)


def _make_below(root: int, parts: list[str]) -> None:
    for depth in range(len(parts)):
        with open_below(root, parts[:depth]) as parent:
            if parts[depth] not in os.listdir(parent):
                _refuse_clash(parent, parts[depth])
                with suppress(FileExistsError):
                    os.mkdir(parts[depth], dir_fd=parent)
                os.fsync(parent)
    with open_below(root, parts):
        pass


def _refuse_clash(parent: int, name: str) -> None:
    for other in os.listdir(parent):
        if other != name and folding(other) == folding(name):
            raise RegistryError(
                f"{shown(name)!r} is not made beside {shown(other)!r}: some file systems hold the two names for one"
            )


def _sweep(model: int) -> None:
    """Removes what publishers left that were killed; none is alive, for the caller has the lock."""
    for name in os.listdir(model):
        if name.startswith(OURS) and name != _LOCK:
            path = path_of(model) / name
            if path.is_symlink() or not path.is_dir():
                path.unlink()
            else:
                shutil.rmtree(path)

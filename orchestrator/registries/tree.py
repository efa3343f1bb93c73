"""Effects. Looks through a directory of models without following a link, opening a pipe or trusting a name.

Everything below the root is reached through open directories (`openat`), so that nothing that is swapped for a link in
the meantime can lead outside.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.errors import RegistryError
from orchestrator.names import natural, problem_of_part, problem_of_path, shown
from orchestrator.registries.memory import FileIdentity
from tasks.files.modules import MODULE_FILES, MODULES, is_module

MODEL_FILES = re.compile(
    r"""
    .*\.safetensors | .*\.safetensors\.index\.json | model\.pt2
    | (config|generation_config|preprocessor.*|.*processor_config|special_tokens.*|added_tokens)\.json
    | modules\.json | config_sentence_transformers\.json | sentence_[a-z]+_config\.json
    | (tokenizer|vocab|merges|spiece|sentencepiece|chat_template).*\.(json|txt|model|jinja)
    | prunefleet\.json
    | (LICENSE|LICENCE|NOTICE|COPYING).*
    """,
    re.VERBOSE | re.DOTALL,
)
"""What a version's digest covers and `fetch` copies: whatever decides how the model computes, and its licence."""
WEIGHTS = re.compile(r"[^/]*\.(safetensors|bin|pt|pt2|pth|pkl|ckpt|gguf|h5|onnx|msgpack)", re.DOTALL)
MAX_DEPTH = 12
MAX_FILES = 100_000  # in one directory; a model of 200,000 tensors has fewer shards than this
OURS = ".prunefleet-"
"""Hidden directories in which a publication is being made."""
NOT_FOR_PEOPLE = "lost+found"  # what ext4 puts, unreadable, into the root of a disk


@dataclass(slots=True)
class Contents:
    """What lies directly in one directory."""

    files: dict[str, FileIdentity] = field(default_factory=dict)
    """Regular files that belong to a model."""
    directories: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    """Symbolic links that do not have the name of a model's file."""
    has_model: bool = False
    """Whether there is a config, anything that could be weights, or more than anybody would look at."""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A directory that holds a model, or one that cannot be looked at."""

    parts: tuple[str, ...]
    files: dict[str, FileIdentity] = field(default_factory=dict)
    problem: str = ""


@contextmanager
def open_root(path: Path) -> Iterator[int]:
    """The registry's own directory; its path is the operator's, so links in it are followed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise RegistryError(f"the directory {shown(str(path))} cannot be opened: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def open_below(root: int, parts: Sequence[str]) -> Iterator[int]:
    """A directory below another open one, reached without following any link. Errors: OSError."""
    descriptor = os.dup(root)
    try:
        for part in parts:
            inner = _open_directory(part, descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def belongs(path: str, beside: Container[str]) -> bool:
    """Whether a file of a version, by its relative path, is one of the model's; `beside` is what else the version has.

    With `modules.json` the folders of a sentence encoder's further modules are a part of it.
    """
    folder, slash, name = path.rpartition("/")
    if not slash:
        return bool(MODEL_FILES.fullmatch(name))
    return MODULES in beside and is_module(folder) and name in MODULE_FILES


def path_of(descriptor: int) -> Path:
    """A path by which this process reaches an open directory, wherever that directory is moved."""
    return Path(f"/proc/self/fd/{descriptor}")


def walk(root: int) -> Iterator[Found]:
    """Every model below the root and every place that cannot be looked at, in natural order.

    A model directly below the root may have further versions in directories of its own; deeper ones are leaves.
    """
    contents = contents_of(root)
    if contents.has_model:
        raise RegistryError(
            contents.problem or "the registry's directory is itself a model; name the directory above it"
        )
    yield from _below(root, (), contents)


def contents_of(directory: int) -> Contents:
    """Looks at one directory without opening anything in it. Errors: OSError."""
    contents = Contents()
    seen = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            name = entry.name
            if entry.is_dir(follow_symlinks=False):
                contents.directories.append(name)
                continue
            seen += 1
            contents.has_model |= name == "config.json" or bool(WEIGHTS.fullmatch(name))
            if seen > MAX_FILES:
                contents.has_model, contents.problem = (
                    True,
                    f"it holds more than {MAX_FILES} files; no model does",
                )
                break
            if not MODEL_FILES.fullmatch(name):
                if entry.is_symlink():
                    contents.links.append(name)
                continue
            with suppress(FileNotFoundError):  # deleted since it was listed
                _add(contents, name, entry.stat(follow_symlinks=False))
    if MODULES in contents.files:
        for name in filter(is_module, tuple(contents.directories)):
            contents.directories.remove(name)
            _add_module(contents, directory, name)
    return contents


def kind_of(mode: int) -> str:
    """What a file that is not regular is, for people."""
    kinds = {
        stat.S_IFLNK: "a symbolic link, which is never followed",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFBLK: "a block device",
        stat.S_IFCHR: "a character device",
    }
    return kinds.get(stat.S_IFMT(mode), "not a regular file")


def _add_module(contents: Contents, directory: int, folder: str) -> None:
    with suppress(FileNotFoundError):
        inner = _open_directory(folder, directory)
        try:
            for name in MODULE_FILES:
                with suppress(FileNotFoundError):
                    _add(contents, f"{folder}/{name}", os.stat(name, dir_fd=inner, follow_symlinks=False))
        finally:
            os.close(inner)


def _add(contents: Contents, name: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        contents.problem = (
            f"{shown(name)} is {kind_of(status.st_mode)}; put a regular file there (cp -L copies one)"
        )
    elif why := problem_of_path(name):
        contents.problem = f"the file name {shown(name)!r} cannot be used: {why}; rename it"
    else:
        contents.files[name] = identity_of(status)


def identity_of(status: os.stat_result) -> FileIdentity:
    """What the file system vouches for."""
    return FileIdentity(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _below(directory: int, parts: tuple[str, ...], contents: Contents) -> Iterator[Found]:
    """What is in the directories of a directory; `contents` are those of the directory itself."""
    if contents.has_model and len(parts) > 1:
        return
    links = set() if contents.has_model else {name for name in contents.links if not name.startswith(".")}
    for name in sorted({*contents.directories, *links}, key=natural):
        where = (*parts, name)
        if name in links:
            yield Found(
                parts=where, problem="it is a symbolic link, which is never followed; copy the model there"
            )
        elif not name.startswith(OURS) and name != NOT_FOR_PEOPLE:
            yield from _enter(directory, where, only_models=contents.has_model)


def _enter(directory: int, parts: tuple[str, ...], *, only_models: bool) -> Iterator[Found]:
    """One directory and what is below it; `only_models` if it lies in a model, where others may have other uses."""
    try:
        inner = _open_directory(parts[-1], directory)
    except FileNotFoundError:
        return  # removed since it was listed
    except OSError as error:
        yield Found(parts=parts, problem=f"it cannot be opened: {error.strerror}")
        return
    try:
        contents = contents_of(inner)
        name_problem = _name_problem(parts)
        if not contents.has_model and (only_models or parts[-1].startswith(".")):
            return
        if name_problem:
            yield Found(parts=parts, problem=name_problem)
            return
        if contents.has_model:
            yield Found(parts=parts, files=contents.files, problem=contents.problem)
        yield from _below(inner, parts, contents)
    except OSError as error:
        yield Found(parts=parts, problem=f"it cannot be read: {error.strerror}")
    finally:
        os.close(inner)


def _name_problem(parts: tuple[str, ...]) -> str:
    if len(parts) > MAX_DEPTH:
        return f"it lies more than {MAX_DEPTH} directories deep; move it up"
    why = problem_of_part(parts[-1]) or problem_of_path("/".join(parts))
    return f"its name cannot be used: {why}; rename it" if why else ""


def _open_directory(name: str, parent: int) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)

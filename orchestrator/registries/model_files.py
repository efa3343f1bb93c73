"""Effects. Reads the files of one model version: what they say, their digests, and copies of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.errors import RegistryError
from orchestrator.names import shown
from orchestrator.registries.memory import FileIdentity
from orchestrator.registries.tree import WEIGHTS, identity_of, open_below, path_of
from tasks.contract import BadInput
from tasks.files.headers import open_regular
from tasks.files.layouts import Layout
from tasks.files.strictjson import parse_object

CONFIG = "config.json"
MAX_CONFIG_BYTES = 4_000_000  # 100,000 labels fit
COPY_BYTES = 1 << 20


def used(files: Iterable[str], layout: Layout) -> list[str]:
    """The files that make up a model: all that describe it, and the weights that it names; not weights beside them."""
    weights = {file.path.name for file in layout.files}
    return sorted(weights | {name for name in files if not WEIGHTS.fullmatch(name)})


def architecture_of(directory: Path) -> str:
    """What config.json calls the model. Errors: BadInput."""
    with open_regular(directory / CONFIG) as stream:
        data = stream.read(MAX_CONFIG_BYTES + 1)
    if data.startswith(b"version https://git-lfs"):
        raise bad_config("it is a Git-LFS pointer", "Run `git lfs pull` there.")
    config = parse_object(
        data, what="the config", file=CONFIG, max_bytes=MAX_CONFIG_BYTES, may_be_infinite=True
    )
    match config:
        case {"architectures": [str(name), *_]} | {"model_type": str(name)} if name:
            if name.isprintable() and len(name) <= 200:
                return name
    why = "neither `architectures` nor `model_type` names the model's architecture"
    raise bad_config(why, "Export the model again with save_pretrained.")


def bad_config(why: str, do: str) -> BadInput:
    """What is wrong with a model's config.json."""
    return BadInput("the config cannot be read", why=why, do=do, file=CONFIG)


def missing_config() -> BadInput:
    """What is wrong with a model that has none."""
    do = "Put the one that save_pretrained wrote beside the weights; beside a program, one that says `architectures`."
    return bad_config("it is not there", do)


def hash_file(root: int, parts: tuple[str, ...], name: str, expected: FileIdentity | None) -> str:
    """SHA-256 of one file below the root, which must be the expected one from the first byte to the last.

    Errors: BadInput, OSError.
    """
    *folders, leaf = name.split("/")
    with open_below(root, (*parts, *folders)) as directory, open_regular(path_of(directory) / leaf) as stream:
        before = identity_of(os.fstat(stream.fileno()))
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        after = identity_of(os.fstat(stream.fileno()))
    if not before == after == expected:
        raise BadInput(
            "the model cannot be used now",
            why="the file changed while it was read",
            do="Write models aside and rename them into the registry; the next run looks again.",
            file=name,
        )
    return sha256


def copy_below(directory: int, path: str, into: Path) -> str:
    """Copies a file of an open directory, by its relative path and through no link; see `copy_file`."""
    *folders, name = path.split("/")
    if folders:
        (into / path).parent.mkdir(exist_ok=True)
    with open_below(directory, folders) as inner:
        return copy_file(path_of(inner) / name, into / path)


def copy_file(source: Path, target: Path) -> str:
    """Copies one file into a new one; the SHA-256 of what was copied.

    Errors: BadInput (it cannot be opened), RegistryError (it cannot be read), OSError (the copy cannot be written).
    """
    sha256 = hashlib.sha256()
    with open_regular(source) as stream, target.open("xb") as copy:
        while block := _read(stream, source.name):
            sha256.update(block)
            copy.write(block)
    return sha256.hexdigest()


def explained(error: BadInput | OSError, directory: str) -> str:
    """The error as people should see it: with the directory's own name, not with that of our descriptor."""
    if isinstance(error, OSError):
        return f"{shown(directory)} cannot be read: {error.strerror}; look at its permissions and its disk"
    if error.file.isdigit():
        return str(
            BadInput(error.what, why=error.why, do=error.do, file=shown(directory), tensor=error.tensor)
        )
    return str(error)


def _read(stream: Any, name: str) -> bytes:
    try:
        block: bytes = stream.read(COPY_BYTES)
    except OSError as error:
        raise RegistryError(f"{shown(name)} cannot be read: {error.strerror}") from error
    return block

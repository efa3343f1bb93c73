"""Effects. Probes: whether bytes come back as they went, and whether halves of them are ever seen."""

from __future__ import annotations

import hashlib
import random
import tempfile
from pathlib import Path

from orchestrator.ports import ObjectStore
from orchestrator.probes.ground import Ground, listed, watched

SIZES = (0, 1, 5, 65_535, 1_000_003)
"""Bytes of the objects that make the way there and back."""


def whole_bytes(ground: Ground) -> str:
    """Objects and files make the way there and back, and are as large as the store says."""
    draw = random.Random(1)
    for size in SIZES:
        key, data = ground.key(f"bytes/{size}"), draw.randbytes(size)
        ground.first.put(key, data)
        for store in (ground.first, ground.other(size)):
            if (got := store.get(key)) != data:
                return f"of {size} bytes that were written, {_difference(data, got)}"
            first, again = store.stat(key), store.stat(key)
            if first is None or first.bytes != size:
                return f"an object of {size} bytes was said to have {first.bytes if first else 'none'}"
            if first != again:
                return "two looks at an object that nobody wrote in between differed in size, time or etag"
    return _file_there_and_back(ground)


def _difference(wrote: bytes, got: bytes) -> str:
    if len(got) != len(wrote):
        return f"{len(got)} came back"
    wrong = sum(a != b for a, b in zip(wrote, got, strict=True))
    return f"{wrong} came back with another value"


def _file_there_and_back(ground: Ground) -> str:
    key, size = ground.key("bytes/file"), ground.effort.large_bytes
    with tempfile.TemporaryDirectory(prefix="pf-") as folder:
        source, target = Path(folder, "source"), Path(folder, "target")
        digest = _write_file(source, size)
        ground.first.upload(source, key)
        store = ground.other(0)
        there = store.stat(key)
        if there is None or there.bytes != size:
            return f"a file of {size} bytes was said to have {there.bytes if there else 'none'}"
        store.download(key, target)
        with target.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return f"a file of {size} bytes came back with another SHA-256, and {target.stat().st_size} bytes"
    return ""


def _write_file(path: Path, size: int) -> str:
    """A file of bytes that do not repeat; their SHA-256."""
    draw, digest = random.Random(size), hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, 1 << 20):
            block = draw.randbytes(min(1 << 20, size - start))
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def unfinished(ground: Ground) -> str:
    """Nothing is seen of a file before all of it is there, nor of an upload that was begun and given up."""
    return _half_of_a_file(ground) or (_begun_and_given_up(ground) if ground.partial else "")


def _half_of_a_file(ground: Ground) -> str:
    key, size = ground.key("unfinished/file"), ground.effort.large_bytes
    below = key.removesuffix("file")

    def look(store: ObjectStore) -> set[int]:
        there = store.stat(key)
        return {*([there.bytes] if there else ()), *(found.bytes for found in store.list(below))}

    with tempfile.TemporaryDirectory(prefix="pf-") as folder:
        source = Path(folder, "source")
        _write_file(source, size)
        with watched([ground.other(0)], look) as seen:
            ground.first.upload(source, key)
    halves = {bytes_ for reader in seen for sizes in reader for bytes_ in sizes} - {size}
    return f"while a file of {size} bytes was sent, {min(halves)} bytes of it were there" if halves else ""


def _begun_and_given_up(ground: Ground) -> str:
    key, store, partial = ground.key("unfinished/parts"), ground.other(1), ground.partial
    assert partial
    upload = partial.begin(key, b"half of an upload")
    try:
        if store.stat(key) is not None or listed(store, key):
            return "an upload that was begun and not completed is there as an object"
    finally:
        partial.abandon(upload)
    if store.stat(key) is not None or listed(store, key):
        return "an upload that was given up is there as an object"
    if any(True for _ in partial.unfinished(key)):
        return "the parts of an upload that was given up are still there, and take room"
    return ""

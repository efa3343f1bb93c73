"""Pure. Which keys a store accepts; nothing is escaped, so that a key is the same text everywhere."""

from __future__ import annotations

from orchestrator.errors import StoreError

MAX_KEY_BYTES = 1024  # the limit of S3
MAX_PART_BYTES = 255  # the limit of a file name
MAX_SWAP_BYTES = (
    1 << 20
)  # the local store hashes an object for its etag; an artifact's hash would cost minutes
RESERVED = ".prunefleet-"
"""Parts that begin so are the local store's own files, never keys."""


def check_key(key: str) -> str:
    """The key itself. Errors: StoreError, naming what is wrong with it."""
    if problem := problem_of(key):
        raise StoreError(f"{key!r} cannot be a key of the store: {problem}")
    return key


def problem_of(key: str) -> str:
    """Why this text cannot be a key; empty if it can."""
    if not key:
        return "it is empty"
    if not key.isprintable():
        return "it holds a character that cannot be printed"
    if len(key.encode()) > MAX_KEY_BYTES:
        return f"it is longer than {MAX_KEY_BYTES} bytes"
    for part in key.split("/"):
        if part in ("", ".", ".."):
            return f"one of its parts is {part!r}; keys are relative, with parts that name something"
        if len(part.encode()) > MAX_PART_BYTES:
            return f"one of its parts is longer than {MAX_PART_BYTES} bytes"
        if part.startswith(RESERVED):
            return f"parts that begin with {RESERVED} are the store's own"
    return ""


def check_prefix(prefix: str) -> str:
    """The prefix itself: a key, the beginning of one, or nothing. Errors: StoreError."""
    body = prefix.removesuffix("/")
    if prefix and (problem := problem_of(body)):
        raise StoreError(f"{prefix!r} cannot be the prefix of a key: {problem}")
    return prefix


def check_folder(prefix: str) -> str:
    """The prefix itself, which ends with a slash, or is empty. Errors: StoreError."""
    if prefix and not prefix.endswith("/"):
        raise StoreError(f"{prefix!r} is no folder: it does not end with a slash")
    return check_prefix(prefix)


def check_swapped(key: str, data: bytes, etag: str | None) -> None:
    """Errors: StoreError, if this is too much for an object that is swapped, or no etag to go by."""
    if etag == "":  # some servers take an empty condition for none
        raise StoreError(f"{key}: an empty etag matches nothing; take it from stat or from the last swap")
    if len(data) > MAX_SWAP_BYTES:
        raise StoreError(f"{key}: {len(data)} bytes are too many to swap; the limit is {MAX_SWAP_BYTES}")

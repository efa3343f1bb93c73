"""Pure. Canonical bytes of a value, and the digest that names it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.errors import NoStableBytes


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces; refuses every value that has no stable bytes."""
    return json.dumps(
        _plain(value, "value"), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(value: Any) -> str:
    """SHA-256 of the canonical bytes, 64 hex digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def digest_bytes(data: bytes) -> str:
    """SHA-256 of raw bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest_files(files: Mapping[str, str]) -> str:
    """The digest of a directory: relative path -> SHA-256 of the file's bytes."""
    return digest(["files", sorted(files.items())])


def _plain(value: Any, where: str) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            if not math.isfinite(value):
                raise NoStableBytes(f"{where} is {value}: only finite numbers can be part of an identity")
            return int(value) if value.is_integer() and abs(value) < 2**53 else value
        case Mapping():
            for key in value:
                if not isinstance(key, str):
                    raise NoStableBytes(f"{where} has the key {key!r}: only text can be a key of an identity")
            return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
        case Sequence() if not isinstance(value, bytes | bytearray):
            return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise NoStableBytes(f"{where} is a {type(value).__name__}, which has no stable bytes")

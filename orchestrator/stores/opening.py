"""Effects. The store that a fleet file names, opened by its URL; nothing is read or written yet."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.errors import SpecError
from orchestrator.ports import ObjectStore
from orchestrator.spec import StoreSpec
from orchestrator.stores.local import LocalStore


def open_store(spec: StoreSpec) -> ObjectStore:
    """The object store at `spec.url`: a directory, file:///directory or s3://bucket/prefix. Errors: SpecError."""
    scheme, separator, _ = spec.url.partition("://")
    if not separator:
        return LocalStore(Path(spec.url))
    match scheme:
        case "file":
            parts = urlsplit(spec.url)
            if parts.netloc not in ("", "localhost"):
                raise SpecError(f"store {spec.url}: a file URL names no host; write file:///directory")
            return LocalStore(Path(unquote(parts.path)))
        case "s3":
            from orchestrator.stores.s3 import S3Store

            return S3Store(spec)
    raise SpecError(
        f"store {spec.url}: unknown scheme {scheme!r}; a store is a directory or s3://bucket/prefix"
    )

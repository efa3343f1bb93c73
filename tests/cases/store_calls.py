"""Every call of a store that is about one key, for tests of what all of them answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def calls_of(store: Any) -> tuple[Callable[[], object], ...]:
    """Calls that move no file."""
    return (
        lambda: store.get("key"),
        lambda: store.put("key", b""),
        lambda: store.put_if_absent("key", b""),
        lambda: store.swap("key", b"", "etag"),
        lambda: store.stat("key"),
        lambda: list(store.list("")),
        lambda: store.delete("key"),
    )

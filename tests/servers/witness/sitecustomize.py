"""Effects. On the path of a cluster's Python it writes down each unit that a worker begins to compute, and changes nothing.

A worker makes a directory named by the unit before it computes it, and for no other purpose; an audit hook hears of that.
"""

from __future__ import annotations

import os
import re
import sys

_FILE = os.environ.get("CHAOS_WITNESS")
_UNIT = re.compile(r"/prunefleet-[^/]+/([0-9a-f]{64})\Z")


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if event != "os.mkdir" or not isinstance(arguments[0], str | os.PathLike):
        return
    if found := _UNIT.search(os.fspath(arguments[0])):
        number = os.open(_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(number, f"{found[1]}\n".encode())
        os.close(number)


if _FILE:
    sys.addaudithook(_hear)

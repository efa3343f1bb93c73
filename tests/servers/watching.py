"""Effects. Everything that this process opens, makes, starts and connects to while a block lasts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_CHANGES = ("os.mkdir", "os.rename", "os.symlink", "os.link")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = ("open", "socket.connect", "subprocess.Popen", *_CHANGES)


@dataclass
class Watch:
    """What was seen."""

    events: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)

    def addresses(self) -> set[Any]:
        """Whom a socket was connected to, or tried to."""
        return {arguments[1][:2] for event, arguments in self.events if event == "socket.connect"}

    def stays_here(self, uri: str, folder: Path | None = None) -> bool:
        """Whether nobody but this server was connected to, no process started, nothing written but to scratch and the folder."""
        server = urlsplit(uri)
        changed = [
            str(arguments[0])
            for event, arguments in self.events
            if event in _CHANGES or (event == "open" and arguments[2] & _WRITING)
        ]
        opened = [str(arguments[0]) for event, arguments in self.events if event == "open"]
        return (
            self.addresses() == {(server.hostname, server.port)}
            and all("prunefleet-scratch" in path or path.startswith(f"{folder}/") for path in changed)
            and not any("passwd" in path for path in opened)
            and not any(event == "subprocess.Popen" for event, _ in self.events)
        )


_WATCHES: list[Watch] = []


@contextmanager
def watched() -> Iterator[Watch]:
    """A watch, until the end of the block; nobody is connected to but this machine itself."""
    _listen()
    watch = Watch()
    _WATCHES.append(watch)
    try:
        yield watch
    finally:
        _WATCHES.remove(watch)


@cache
def _listen() -> None:
    """Once: what is added to a process's audit cannot be taken away again."""
    sys.addaudithook(_seen)


def _seen(event: str, arguments: tuple[Any, ...]) -> None:
    if not _WATCHES or event not in EVENTS:
        return
    for watch in _WATCHES:
        watch.events.append((event, arguments))
    if event == "socket.connect" and arguments[1][0] not in ("127.0.0.1", "::1"):
        raise ConnectionRefusedError(f"{arguments[1]} is not this machine")

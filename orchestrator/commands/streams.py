"""Effects. The process's own streams: what cannot be written to stdout is one error; what cannot be said on stderr is lost."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

from orchestrator.errors import OutputLost

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDOUT, STDERR = 1, 2


class _Output(io.FileIO):
    """Stdout. Errors: OutputLost; BrokenPipeError, where whoever read it has had enough."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputLost(
                f"stdout cannot be written: {error.strerror}; what was printed is cut off"
            ) from None


class _Talk(io.FileIO):
    """Stderr: no work ends because nobody can be told of it, or because a signal's handler speaks in the midst of a line.

    Nothing is buffered here, as a buffered writer refuses a second writer in the same thread.
    """

    def write(self, data: ReadableBuffer, /) -> int:
        rest = memoryview(data).cast("B")
        while rest:
            try:
                written = super().write(rest)
            except OSError:
                break
            if not written:  # a reader that neither blocks nor keeps up
                break
            rest = rest[written:]
        return memoryview(data).nbytes


def guard_streams() -> None:
    """Puts streams that know how to fail in place of the process's own, and the null device in place of closed ones."""
    _fill_closed()
    if sys.stdout is None or isinstance(sys.stdout, io.TextIOWrapper):
        output = _Output(STDOUT, "w", closefd=False)
        sys.stdout = _text(io.BufferedWriter(output), sys.stdout, line_buffering=output.isatty())
    if sys.stderr is None or isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _text(_Talk(STDERR, "w", closefd=False), sys.stderr, write_through=True)


def _fill_closed() -> None:
    """A closed descriptor is given to the next file that is opened, and output would be written into it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _text(
    binary: io.BufferedWriter | io.FileIO,
    before: io.TextIOWrapper | None,
    *,
    line_buffering: bool = False,
    write_through: bool = False,
) -> io.TextIOWrapper:
    if before is not None:
        before.flush()
    return io.TextIOWrapper(
        binary,
        encoding=before.encoding if before else "utf-8",
        errors="backslashreplace",  # what an encoding lacks is told by its number
        line_buffering=line_buffering,
        write_through=write_through,
    )

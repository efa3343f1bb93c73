"""Effects. A conditional write, repeated and read back until its outcome is known; sleeps between tries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

_TRIES = 8  # the pauses between them add up to at most 12 s
_LONGEST_DOUBT = 60.0  # seconds after which no further try is made


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the server said to one conditional write: the new etag (it won), or that it lost, or neither."""

    etag: str | None = None
    is_lost: bool = False
    is_in_doubt: bool = False
    """This or an earlier sending of the request may have taken place, whatever was said."""
    cause: Exception | None = None
    """The error that was answered, where it did not win."""


class Undecided(Exception):
    """The outcome of a write stayed open to the end."""

    def __init__(self, cause: Exception):
        super().__init__(str(cause))
        self.cause = cause


def decide(
    ask: Callable[[], Answer],
    read_back: Callable[[], tuple[bool, str | None]],
    is_still_open: Callable[[str | None], bool],
) -> str | None:
    """The etag of our write, or None if others were first.

    A definite loss is believed only where no sending of ours is in doubt; else `read_back` tells whether the object that
    is there is ours, and its etag (None: nothing is there), from which `is_still_open` tells whether to ask again.
    Errors: Undecided, with the last answer's error as its cause.
    """
    is_in_doubt = False
    for attempt in Retrying(
        retry=retry_if_exception_type(Undecided),
        stop=stop_after_attempt(_TRIES) | stop_after_delay(_LONGEST_DOUBT),
        wait=wait_random_exponential(multiplier=0.1, max=4),
        reraise=True,
    ):
        with attempt:
            answer = ask()
            if answer.etag is not None:
                return answer.etag
            is_in_doubt |= answer.is_in_doubt
            if answer.is_lost and not is_in_doubt:
                return None
            if is_in_doubt:
                is_ours, etag = read_back()
                if is_ours:
                    return etag
                if not is_still_open(etag):
                    return None
            assert answer.cause is not None, "an answer that is no etag carries its error"
            raise Undecided(answer.cause)
    raise AssertionError("the last attempt returns or raises")

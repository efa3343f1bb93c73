"""Pure. Which requests to an S3 server are sent again, and after what pause: the one owner of their repetition.

boto3's own retries are off. Their budget is filled by successes alone: a worker that asks for results that are not
there yet (404) empties it within a few hundred requests, and from then on every passing fault is an error.
"""

from __future__ import annotations

from botocore.exceptions import ConnectionError, HTTPClientError, ReadTimeoutError, SSLError

TRIES = 8
TRIES_IN_SILENCE = 2
"""Each waits a minute for the answer."""
FIRST_PAUSE = 0.2
"""Seconds, at most; the longest pause doubles at each try."""
LONGEST_PAUSE = 8.0

CHANGED_ON_THE_WAY = frozenset({"BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"})
_PASSING_CODES = CHANGED_ON_THE_WAY | {"IncompleteBody", "RequestTimeout", "SlowDown"}
_PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504, 509})


def pause_before_repeat(
    sent: int, *, status: int, code: str, error: Exception | None, chance: float
) -> float | None:
    """Seconds until the request is sent again, or None: it is not. It was `sent` once or more; `chance` is in [0, 1)."""
    if error is not None:
        is_passing = isinstance(error, ConnectionError | HTTPClientError) and not isinstance(error, SSLError)
    else:
        is_passing = status in _PASSING_STATUS or code in _PASSING_CODES
    if not is_passing or sent >= (TRIES_IN_SILENCE if isinstance(error, ReadTimeoutError) else TRIES):
        return None
    return chance * min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (sent - 1))

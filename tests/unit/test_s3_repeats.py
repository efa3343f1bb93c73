"""Which requests to an S3 server are sent again, as a table."""

from __future__ import annotations

import botocore.exceptions as boto
import pytest

from orchestrator.stores.s3_repeats import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    TRIES,
    TRIES_IN_SILENCE,
    pause_before_repeat,
)

URL = {"endpoint_url": "http://host"}
BROKEN_OFF = (
    boto.EndpointConnectionError(**URL),
    boto.ConnectionClosedError(**URL),
    boto.ConnectTimeoutError(**URL),
    boto.HTTPClientError(error="reset"),
)


def pause(
    sent: int = 1, status: int = 200, code: str = "", error: Exception | None = None, chance: float = 0.5
) -> float | None:
    return pause_before_repeat(sent, status=status, code=code, error=error, chance=chance)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        *((status, "") for status in (408, 429, 500, 502, 503, 504, 509)),
        (503, "SlowDown"),
        (400, "RequestTimeout"),
        (400, "BadDigest"),
        (400, "XAmzContentSHA256Mismatch"),
        (400, "IncompleteBody"),
    ],
)
def test_what_passes_is_repeated_a_bounded_number_of_times(status: int, code: str) -> None:
    assert pause(status=status, code=code) is not None
    assert pause(TRIES - 1, status, code) is not None
    assert pause(TRIES, status, code) is None


@pytest.mark.parametrize("error", BROKEN_OFF, ids=lambda error: type(error).__name__)
def test_a_broken_connection_is_tried_again(error: Exception) -> None:
    assert pause(error=error) is not None
    assert pause(TRIES, error=error) is None


def test_a_minute_of_silence_is_not_waited_for_many_times() -> None:
    silence = boto.ReadTimeoutError(**URL)
    assert pause(TRIES_IN_SILENCE - 1, error=silence) is not None
    assert pause(TRIES_IN_SILENCE, error=silence) is None


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (200, ""),
        (400, "ExpiredToken"),
        (400, "InvalidPart"),
        (401, ""),
        (403, "AccessDenied"),
        (403, "ExpiredToken"),
        (404, "NoSuchKey"),
        (409, "ConditionalRequestConflict"),
        (412, "PreconditionFailed"),
        (501, "NotImplemented"),
        (301, "PermanentRedirect"),
    ],
)
def test_an_answer_is_never_asked_for_again(status: int, code: str) -> None:
    assert pause(status=status, code=code) is None


@pytest.mark.parametrize(
    "error",
    [
        boto.NoCredentialsError(),
        boto.ParamValidationError(report="wrong"),
        boto.SSLError(endpoint_url="https://host", error="self-signed certificate"),
        ValueError("ours"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_pass_is_not_tried_again(error: Exception) -> None:
    assert pause(error=error) is None


def test_pauses_double_up_to_a_longest_and_are_spread_by_chance() -> None:
    longest = [pause(sent, 503, chance=0.999999) or 0.0 for sent in range(1, TRIES)]
    assert longest == pytest.approx(
        [min(LONGEST_PAUSE, FIRST_PAUSE * 2**doubling) for doubling in range(TRIES - 1)], rel=1e-5
    )
    assert sum(longest) < 25
    assert pause(5, 503, chance=0.0) == 0.0
    assert pause(2, 503, chance=0.5) == pytest.approx(FIRST_PAUSE)

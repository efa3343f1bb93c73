"""What each answer of an S3 server means, and what a person reads."""

from __future__ import annotations

import pickle

import botocore.exceptions as boto
import pytest
from botocore.parsers import ResponseParserError
from s3transfer.exceptions import RetriesExceededError

from orchestrator.errors import (
    Damaged,
    NotFound,
    NotPermitted,
    NotSupported,
    PrunefleetError,
    StoreError,
    Unreachable,
)
from orchestrator.stores.s3_errors import (
    explain,
    is_conflict,
    is_gone_upload,
    is_refused,
    is_torn,
    is_unknown,
)

NO_CREDENTIALS = (
    boto.NoCredentialsError(),
    boto.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
    boto.ProfileNotFound(profile="nightly"),
    boto.TokenRetrievalError(provider="sso", error_msg="x"),
    boto.CredentialRetrievalError(provider="process", error_msg="x"),
)
SILENCE = (
    boto.EndpointConnectionError(endpoint_url="http://127.0.0.1:1/"),
    boto.ConnectTimeoutError(endpoint_url="http://127.0.0.1:1/"),
    boto.ReadTimeoutError(endpoint_url="http://127.0.0.1:1/"),
    boto.ConnectionClosedError(endpoint_url="http://127.0.0.1:1/"),
    boto.SSLError(endpoint_url="https://127.0.0.1:1/", error="certificate"),
    boto.IncompleteReadError(actual_bytes=1, expected_bytes=2),
)


def answer(status: int, code: str, message: str | None = "said so") -> boto.ClientError:
    error: dict[str, str | None] = {"Code": code, "Message": message}
    response = {"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}
    return boto.ClientError(response, "PutObject")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "code", "kind", "advice"),
    [
        (404, "NoSuchKey", NotFound, ""),
        (404, "404", NotFound, ""),
        (404, "NoSuchBucket", StoreError, "create the bucket"),
        (401, "Unauthorized", NotPermitted, "credentials"),
        (403, "AccessDenied", NotPermitted, "policy"),
        (403, "SignatureDoesNotMatch", NotPermitted, "credentials"),
        (403, "403", NotPermitted, "ListBucket"),
        (400, "ExpiredToken", NotPermitted, "expired"),
        (400, "InvalidToken", NotPermitted, "credentials"),
        (403, "RequestTimeTooSkewed", NotPermitted, "clock"),
        (500, "InternalError", StoreError, "try again"),
        (503, "SlowDown", StoreError, "busy"),
        (501, "NotImplemented", NotSupported, "doctor"),
        (301, "PermanentRedirect", StoreError, "region"),
        (400, "EntityTooLarge", StoreError, "EntityTooLarge"),
    ],
)
def test_each_answer_has_its_error_and_its_advice(
    status: int, code: str, kind: type[PrunefleetError], advice: str
) -> None:
    error = explain(answer(status, code), "write a/key in s3://bucket")
    assert type(error) is kind
    assert "a/key" in str(error)
    assert advice in str(error)


def test_only_a_missing_key_is_not_found() -> None:
    assert not isinstance(explain(answer(404, "NoSuchBucket"), "x"), NotFound)


@pytest.mark.parametrize("error", NO_CREDENTIALS, ids=lambda error: type(error).__name__)
def test_missing_credentials_are_not_permitted(error: Exception) -> None:
    told = explain(error, "read key")
    assert isinstance(told, NotPermitted)
    assert "AWS_ACCESS_KEY_ID" in str(told)


@pytest.mark.parametrize("error", SILENCE, ids=lambda error: type(error).__name__)
def test_silence_is_unreachable(error: Exception) -> None:
    assert isinstance(explain(error, "read key"), Unreachable)


def test_foreign_text_is_cut_and_cleaned_and_may_be_missing() -> None:
    told = str(explain(answer(400, "Odd", "\x1b[31m" + "x" * 10_000), "read key"))
    assert "\x1b" not in told
    assert len(told) < 400
    assert "no message" in str(explain(answer(400, "Odd", None), "read key"))


def test_an_endpoint_with_a_password_is_never_shown() -> None:
    error = boto.EndpointConnectionError(endpoint_url="http://user:hunter2@host/")
    assert "hunter2" not in str(explain(error, "read key"))


def test_our_own_errors_pass_and_all_of_them_can_be_pickled() -> None:
    mine = NotFound("x")
    assert explain(mine, "y") is mine
    for error in (answer(403, "AccessDenied"), *SILENCE, *NO_CREDENTIALS):
        told = explain(error, "read key")
        again = pickle.loads(pickle.dumps(told))
        assert (type(again), str(again)) == (type(told), str(told))


def test_412_409_and_silence_are_three_different_things() -> None:
    refused, conflict = answer(412, "PreconditionFailed"), answer(409, "ConditionalRequestConflict")
    unknown = [
        answer(500, "InternalError"),
        answer(503, "SlowDown"),
        answer(400, "RequestTimeout"),
        *SILENCE[2:4],
    ]
    assert is_refused(refused)
    assert not is_refused(conflict)
    assert is_conflict(conflict)
    assert not is_conflict(refused)
    for error in unknown:
        assert is_unknown(error)
        assert not is_refused(error)
        assert not is_conflict(error)
    for error in (refused, conflict, answer(403, "AccessDenied"), answer(501, "NotImplemented"), SILENCE[0]):
        assert not is_unknown(error)


@pytest.mark.parametrize(
    "error",
    [
        Damaged("a key is damaged"),
        boto.IncompleteReadError(actual_bytes=1, expected_bytes=2),
        boto.ResponseStreamingError(error="reset"),
        ResponseParserError("invalid XML"),
        RetriesExceededError(ConnectionResetError()),
        KeyError("UploadId"),
        ValueError("Invalid timestamp"),
        answer(404, "NoSuchUpload"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_arrives_cut_or_changed_is_asked_for_again_and_told_as_ours(error: Exception) -> None:
    assert is_torn(error)
    assert isinstance(explain(error, "read key"), StoreError | Unreachable)


@pytest.mark.parametrize(
    "error",
    [answer(404, "NoSuchKey"), answer(403, "AccessDenied"), answer(412, "PreconditionFailed"), NotFound("x")],
    ids=str,
)
def test_what_arrives_whole_is_not_asked_for_again(error: Exception) -> None:
    assert not is_torn(error)


def test_a_vanished_upload_is_no_missing_object() -> None:
    assert is_gone_upload(answer(404, "NoSuchUpload"))
    assert not is_gone_upload(answer(404, "NoSuchKey"))
    assert not isinstance(explain(answer(404, "NoSuchUpload"), "upload file"), NotFound)


def test_bytes_that_arrive_changed_are_told_as_such() -> None:
    assert "arrive changed" in str(explain(answer(400, "XAmzContentSHA256Mismatch"), "write key"))


def test_a_bare_400_to_a_look_up_is_about_credentials() -> None:
    """A HEAD has no body: this is all that AWS says where a token has expired."""
    told = explain(answer(400, "400", "Bad Request"), "look up key")
    assert isinstance(told, NotPermitted)
    assert "expired" in str(told)

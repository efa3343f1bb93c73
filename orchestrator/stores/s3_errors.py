"""Pure. What an answer of an S3 server means, and how it is told to a person, without credentials."""

from __future__ import annotations

from urllib.parse import urlsplit

from botocore.exceptions import (
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ResponseStreamingError,
    SSOError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
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
from orchestrator.stores.s3_repeats import CHANGED_ON_THE_WAY

_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    NoAuthTokenError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
    SSOError,
    ProfileNotFound,
)
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_DENIED = {"InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "InvalidSecurity"}
_LONGEST = 200

UNREADABLE = (ResponseParserError, RetriesExceededError, ValueError, KeyError)
"""What boto3 raises over an answer that is cut or changed, besides its own errors."""
_TORN = (Damaged, FlexibleChecksumError, IncompleteReadError, ResponseStreamingError, *UNREADABLE)


def explain(error: Exception, action: str) -> PrunefleetError:
    """The error to raise when `action` failed so: what happened and what to do."""
    if isinstance(error, PrunefleetError):
        return error
    if isinstance(error, ClientError):
        return _explain_answer(error, action)
    if isinstance(error, _NO_CREDENTIALS):
        return NotPermitted(
            f"cannot {action}: no usable credentials ({type(error).__name__}); set AWS_PROFILE, or AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY, or give the machine a role"
        )
    if isinstance(error, ConnectionError | HTTPClientError | IncompleteReadError | RetriesExceededError):
        return Unreachable(
            f"cannot {action}: the server{_endpoint(error)} does not answer ({type(error).__name__}); "
            "check the endpoint and the network"
        )
    said = f"cannot {action}: {type(error).__name__}: {_shown(str(error))}"
    if isinstance(error, UNREADABLE):
        return StoreError(
            f"{said}; the server's answer cannot be read: check what lies between here and there"
        )
    return StoreError(said)


def _endpoint(error: Exception) -> str:
    """` http://host:port` where the error knows it; never a path or a query, which may be signed."""
    parts = urlsplit(str(getattr(error, "kwargs", {}).get("endpoint_url", "")))
    return f" {parts.scheme}://{parts.hostname}:{parts.port}" if parts.hostname and parts.port else ""


def is_refused(error: Exception) -> bool:
    """The condition did not hold, when this request was judged."""
    return _status(error) == 412 or _code(error) in ("PreconditionFailed", "NoSuchKey")


def is_conflict(error: Exception) -> bool:
    """Another write of the key is on its way: nothing is decided, and nothing exists yet for certain."""
    return _status(error) == 409


def is_torn(error: BaseException) -> bool:
    """The answer arrived cut or changed, or is about an upload that has vanished: asking again may cure it."""
    return isinstance(error, _TORN) or is_gone_upload(error)


def is_gone_upload(error: BaseException) -> bool:
    """The upload in parts is not there: it was completed by a request whose answer was lost, or swept away."""
    return _code(error) == "NoSuchUpload"


def is_unknown(error: Exception) -> bool:
    """The write may or may not have taken place."""
    if isinstance(error, HTTPClientError | IncompleteReadError):
        return True
    return (_status(error) >= 500 and _status(error) != 501) or _code(error) == "RequestTimeout"


def _explain_answer(error: ClientError, action: str) -> PrunefleetError:
    code, status = _code(error), _status(error)
    said = f"cannot {action}: {code or status}: {_shown(error.response.get('Error', {}).get('Message') or 'no message')}"
    if code in CHANGED_ON_THE_WAY:
        return StoreError(f"{said}; the bytes arrive changed: check what lies between here and the server")
    if code == "NoSuchUpload":
        return StoreError(f"{said}; the upload in parts has vanished: try again")
    if code == "NoSuchBucket":
        return StoreError(f"{said}; create the bucket, or correct the store's url")
    if status == 404 or code == "NoSuchKey":
        return NotFound(f"there is nothing to {action}")
    if code in _EXPIRED:
        return NotPermitted(f"{said}; the credentials have expired: renew them and start again")
    if (status, code) == (400, "400"):  # to a HEAD, which has no body that could say more
        return NotPermitted(
            f"{said}; most often the credentials have expired, or the region is not the bucket's"
        )
    if code == "RequestTimeTooSkewed":
        return NotPermitted(f"{said}; set this machine's clock")
    if status in (401, 403) or code in _DENIED:
        return NotPermitted(
            f"{said}; check the credentials and the bucket's policy "
            "(without s3:ListBucket a missing object also answers 403)"
        )
    if status == 501:
        return NotSupported(f"{said}; the server lacks what is needed here: `prunefleet doctor` names it")
    if status >= 500 or status == 429:
        return StoreError(f"{said}; the server is failing or busy: try again later")
    if status in (301, 307, 400) and code in ("PermanentRedirect", "TemporaryRedirect", "301", "307"):
        return StoreError(f"{said}; the bucket is in another region: set the store's region")
    return StoreError(said)


def _code(error: BaseException) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _status(error: Exception) -> int:
    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _shown(text: str) -> str:
    """Foreign text, cut and without control characters."""
    return "".join(c if c.isprintable() else " " for c in text)[:_LONGEST]

"""Effects. Objects in an S3 bucket, on AWS or any server that speaks S3, by boto3."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from io import BufferedRandom, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from orchestrator.errors import Damaged, NotFound, SpecError, StoreError, Unreachable
from orchestrator.ports import Stat
from orchestrator.spec import StoreSpec
from orchestrator.stores.deciding import Answer, Undecided, decide
from orchestrator.stores.keys import (
    MAX_KEY_BYTES,
    RESERVED,
    check_folder,
    check_key,
    check_prefix,
    check_swapped,
    problem_of,
)
from orchestrator.stores.s3_connection import connect, delta_options
from orchestrator.stores.s3_errors import (
    UNREADABLE,
    explain,
    is_conflict,
    is_gone_upload,
    is_refused,
    is_torn,
    is_unknown,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef, ListObjectsV2OutputTypeDef

DIGEST = "prunefleet-sha256"
"""The object metadata that carries the SHA-256 of the content."""
WRITER = "prunefleet-writer"
"""The object metadata that tells one conditional write from every other, so that it can be known again."""

Asked = TypeVar("Asked")

_READINGS = 3
"""How often an answer is asked for that arrives cut or changed."""
_TRANSFER = TransferConfig(
    multipart_threshold=16 << 20,
    multipart_chunksize=8 << 20,
    max_concurrency=4,
    max_io_queue=64,
    io_chunksize=256 << 10,
)  # at most 4 parts of 8 MiB in memory, and 16 MiB waiting for the disk


class _Found(NamedTuple):
    data: bytes
    metadata: Mapping[str, str]
    etag: str


class _Limited(BufferedRandom):
    """A new file that takes no more than so many bytes."""

    def __init__(self, path: Path, limit: int | None):
        super().__init__(FileIO(path, "x+"))
        self._limit = limit

    def write(self, data: Any) -> int:
        if self._limit is not None and self.tell() + len(data) > self._limit:
            raise StoreError(f"more than the {self._limit} bytes come that were listed")
        return super().write(data)


class S3Store:
    """An ObjectStore in a bucket, under a prefix. Pickled as its spec; each process has its own client."""

    def __init__(self, spec: StoreSpec):
        parts = urlsplit(spec.url)
        prefix = parts.path.strip("/")
        if parts.scheme != "s3" or not parts.netloc:
            raise SpecError(f"store {spec.url}: write s3://bucket or s3://bucket/prefix")
        if parts.query or parts.fragment or (prefix and problem_of(prefix)):
            raise SpecError(
                f"store {spec.url}: the prefix after the bucket must be parts divided by single slashes"
            )
        self._spec, self._bucket = spec, parts.netloc
        self._prefix = f"{prefix}/" if prefix else ""
        self._made: tuple[int, S3Client] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Store, (self._spec,)

    @property
    def url(self) -> str:
        """s3://bucket/prefix."""
        return f"s3://{self._bucket}/{self._prefix}".removesuffix("/")

    def get(self, key: str) -> bytes:
        """The whole object, checked against the digest that it carries."""
        return self._asked("read", key, lambda: self._fetch(key)).data

    def put(self, key: str, data: bytes) -> None:
        """Writes or overwrites, atomically for readers."""
        name, metadata = self._name(key), _digest_of(data)
        self._asked(
            "write",
            key,
            lambda: self._client().put_object(Bucket=self._bucket, Key=name, Body=data, Metadata=metadata),
        )

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Creates with `If-None-Match: *`; what is unknown after that is read back."""
        return self._create(key, data) is not None

    def swap(self, key: str, data: bytes, etag: str | None) -> str | None:
        """Replaces with `If-Match`, the etag quoted as the standard says and, where that loses, bare as Ceph wants it.

        None may also mean that it won, its answer was lost, and another replaced it before it could be read back.
        """
        check_swapped(key, data, etag)
        if etag is None:
            return self._create(key, data)
        forms = ({"IfMatch": f'"{etag}"'}, {"IfMatch": etag})
        return self._decide(key, data, forms, lambda there: there == etag)

    def stat(self, key: str) -> Stat | None:
        """The object's size and etag, or None."""
        try:
            head = self._asked("look up", key, lambda: self._head(key))
        except NotFound:
            return None
        return Stat(
            key=key,
            bytes=head["ContentLength"],
            etag=head["ETag"].strip('"'),
            modified=head["LastModified"].timestamp(),
        )

    def list(self, prefix: str) -> Iterator[Stat]:
        """Every object whose key starts with `prefix`, in key order, 1,000 at a request."""
        return (found for found in self.listed(prefix) if not problem_of(found.key))

    def listed(self, prefix: str) -> Iterator[Stat]:
        """The same, with the objects whose names are no keys of a store: others put them there."""
        return self._paged(prefix, self._page)

    def folders(self, prefix: str) -> Iterator[str]:
        """What the server groups by the next slash, 1,000 at a request."""
        check_folder(prefix)
        return (name for name in self._paged(prefix, self._folder_page) if not problem_of(prefix + name))

    def delete(self, key: str) -> None:
        """Removes the object; no error if it is not there."""
        name = self._name(key)
        self._asked("delete", key, lambda: self._client().delete_object(Bucket=self._bucket, Key=name))

    def upload(self, path: Path, key: str) -> None:
        """Writes a file of any size, in parts where it is large."""
        name = self._name(key)
        with self._explained(f"upload {path} to", key), path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()

            def send() -> None:
                file.seek(0)
                extra = {"Metadata": {DIGEST: digest}}
                try:
                    self._client().upload_fileobj(file, self._bucket, name, ExtraArgs=extra, Config=_TRANSFER)
                except ClientError as error:  # an upload that is gone may be complete: its answer was lost
                    if not is_gone_upload(error) or self._digest_there(key) != digest:
                        raise

            self._asked(f"upload {path} to", key, send)

    def download(self, key: str, path: Path, limit: int | None = None) -> None:
        """Reads into a file of any size, which appears when it is whole and has its digest.

        Errors: StoreError, for the first byte beyond the limit; it is not written.
        """
        name = self._name(key)
        aside = path.with_name(f"{RESERVED}{uuid.uuid4().hex}")
        action = f"download to {path}"
        try:
            with self._explained(action, key), _Limited(aside, limit) as file:

                def receive() -> None:
                    file.seek(0)
                    file.truncate()
                    expected = self._head(key).get("Metadata", {})
                    self._client().download_fileobj(self._bucket, name, file, Config=_TRANSFER)
                    file.seek(0)
                    self._check(key, hashlib.file_digest(file, "sha256").hexdigest(), expected)

                self._asked(action, key, receive)
                os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)

    def delta(self, name: str) -> tuple[str, dict[str, str]]:
        """Where deltalake finds the table `name`, and the options that it needs; they hold credentials."""
        with self._explained("open the table", name):
            options = delta_options(self._spec, self._client())
        return f"{self.url}/{check_key(f'tables/{name}')}", options

    def place_of(self, key: str) -> tuple[S3Client, str, str]:
        """The client, the bucket and the object's name in it, for requests that no ObjectStore has; "" is the prefix."""
        return self._client(), self._bucket, self._name(key) if key else self._prefix

    def _create(self, key: str, data: bytes) -> str | None:
        return self._decide(key, data, ({"IfNoneMatch": "*"},), lambda there: there is None)

    def _decide(
        self,
        key: str,
        data: bytes,
        forms: tuple[Mapping[str, Any], ...],
        is_still_open: Callable[[str | None], bool],
    ) -> str | None:
        """The etag of our write, or None if others were first; the write is known again by a mark of its own."""
        mark = uuid.uuid4().hex
        marked = {"Body": data, "Metadata": {**_digest_of(data), WRITER: mark}}
        try:
            return decide(
                lambda: self._ask(key, marked, forms), lambda: self._read_back(key, data, mark), is_still_open
            )
        except Undecided as undecided:
            raise explain(undecided.cause, f"write {key} in {self.url}") from undecided.cause

    def _ask(self, key: str, marked: Mapping[str, Any], forms: tuple[Mapping[str, Any], ...]) -> Answer:
        """One conditional write, in each form of its condition until one does not lose."""
        answer, is_in_doubt = Answer(), False
        for condition in forms:
            answer = self._ask_once(key, {**marked, **condition})
            is_in_doubt |= answer.is_in_doubt
            if not answer.is_lost:
                break
        return replace(answer, is_in_doubt=is_in_doubt)

    def _ask_once(self, key: str, request: Mapping[str, Any]) -> Answer:
        try:
            done = self._client().put_object(Bucket=self._bucket, Key=self._name(key), **request)
        except (ClientError, BotoCoreError) as error:
            if is_refused(error):
                return Answer(is_lost=True, is_in_doubt=_was_retried(error), cause=error)
            if is_conflict(error):
                return Answer(is_in_doubt=_was_retried(error), cause=error)
            if is_unknown(error):
                return Answer(is_in_doubt=True, cause=error)
            raise explain(error, f"write {key} in {self.url}") from error
        return Answer(etag=done["ETag"].strip('"'))

    def _read_back(self, key: str, data: bytes, mark: str) -> tuple[bool, str | None]:
        """Whether what is there now is our write, and its etag; None if nothing is there."""
        try:
            found = self._asked("read back", key, lambda: self._fetch(key))
        except NotFound:
            return False, None
        except Damaged:
            raise
        except (Unreachable, StoreError) as error:
            raise Undecided(error) from error
        is_ours = found.metadata[WRITER] == mark if WRITER in found.metadata else found.data == data
        return is_ours, found.etag

    def _fetch(self, key: str) -> _Found:
        answer = self._client().get_object(Bucket=self._bucket, Key=self._name(key))
        data, metadata = answer["Body"].read(), answer.get("Metadata", {})
        self._check(key, hashlib.sha256(data).hexdigest(), metadata)
        return _Found(data, metadata, answer["ETag"].strip('"'))

    def _head(self, key: str) -> HeadObjectOutputTypeDef:
        return self._client().head_object(Bucket=self._bucket, Key=self._name(key))

    def _digest_there(self, key: str) -> str | None:
        """The digest of the object that is there, as it was written with it."""
        try:
            return self._head(key).get("Metadata", {}).get(DIGEST)
        except ClientError as error:
            if isinstance(explain(error, "look up"), NotFound):
                return None
            raise

    def _paged(
        self,
        prefix: str,
        read: Callable[[str, Mapping[str, Any]], tuple[Sequence[Asked], Mapping[str, Any] | None]],
    ) -> Iterator[Asked]:
        place: Mapping[str, Any] | None = {}
        while place is not None:
            page, place = self._asked("list", prefix, partial(read, prefix, place))
            yield from page

    def _page(self, prefix: str, place: Mapping[str, Any]) -> tuple[Sequence[Stat], Mapping[str, Any] | None]:
        """Up to 1,000 keys from this place on, and the place of the next ones; None if these are the last."""
        page, following = self._listing(prefix, place)
        found = [
            Stat(
                key=item["Key"].removeprefix(self._prefix),
                bytes=item["Size"],
                etag=item.get("ETag", "").strip('"'),
                modified=item["LastModified"].timestamp(),
            )
            for item in page.get("Contents", ())
        ]
        return found, following

    def _folder_page(
        self, prefix: str, place: Mapping[str, Any]
    ) -> tuple[Sequence[str], Mapping[str, Any] | None]:
        """Up to 1,000 names of folders from this place on, and the place of the next ones."""
        page, following = self._listing(prefix, {**place, "Delimiter": "/"})
        beginning = len(self._prefix + prefix)
        return [item["Prefix"][beginning:-1] for item in page.get("CommonPrefixes", ())], following

    def _listing(
        self, prefix: str, place: Mapping[str, Any]
    ) -> tuple[ListObjectsV2OutputTypeDef, Mapping[str, Any] | None]:
        wanted = self._prefix + check_prefix(prefix)
        page = self._client().list_objects_v2(Bucket=self._bucket, Prefix=wanted, **place)
        names = [item["Key"] for item in page.get("Contents", ())]
        for name in (*names, *(item["Prefix"] for item in page.get("CommonPrefixes", ()))):
            if not name.startswith(wanted):
                raise ValueError(f"{name[:200]!r} does not begin with the prefix that was asked for")
        return page, {"ContinuationToken": page["NextContinuationToken"]} if page["IsTruncated"] else None

    def _name(self, key: str) -> str:
        name = self._prefix + check_key(key)
        if len(name.encode()) > MAX_KEY_BYTES:
            raise StoreError(
                f"{key!r} under {self.url} is longer than {MAX_KEY_BYTES} bytes, the limit of S3"
            )
        return name

    def _check(self, key: str, digest: str, metadata: Mapping[str, str]) -> None:
        expected = metadata.get(DIGEST, digest)
        if expected != digest:
            raise Damaged(
                f"{key} in {self.url} is damaged: its SHA-256 is {digest}, but {expected} was written; "
                "restore it, or delete it so that it is made again"
            )

    def _client(self) -> S3Client:
        """This process's client; a forked child makes its own, for connections cannot be shared."""
        if self._made is None or self._made[0] != os.getpid():
            with self._explained("open", ""):
                self._made = (os.getpid(), connect(self._spec))
        return self._made[1]

    def _asked(self, action: str, key: str, ask: Callable[[], Asked]) -> Asked:
        """What the server answers; asked again where the answer is cut or changed, its errors explained."""
        with self._explained(action, key):
            return Retrying(
                retry=retry_if_exception(is_torn),
                stop=stop_after_attempt(_READINGS),
                wait=wait_random_exponential(multiplier=0.05, max=1),
                reraise=True,
            )(ask)

    @contextmanager
    def _explained(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except FlexibleChecksumError as error:
            raise Damaged(
                f"{key} in {self.url} is damaged: its bytes do not match the server's checksum"
            ) from error
        except (ClientError, BotoCoreError, *UNREADABLE) as error:
            raise explain(error, f"{action} {key} in {self.url}") from error
        except OSError as error:
            file = f" ({error.filename})" if error.filename else ""
            raise StoreError(f"cannot {action} {key} in {self.url}: {error.strerror}{file}") from error


def _digest_of(data: bytes) -> dict[str, str]:
    return {DIGEST: hashlib.sha256(data).hexdigest()}


def _was_retried(error: Exception) -> bool:
    """Whether boto3 had sent the request before, so that this answer may be about our own success."""
    response = getattr(error, "response", {})
    return bool(response.get("ResponseMetadata", {}).get("RetryAttempts", 0))

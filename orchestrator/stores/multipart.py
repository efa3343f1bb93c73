"""Effects. Uploads in parts that were begun in an S3 bucket and never completed: they cost money and no listing shows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.ports import ObjectStore

if TYPE_CHECKING:
    from orchestrator.stores.s3 import S3Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """An upload that was begun."""

    key: str
    """As an ObjectStore would name it; foreign uploads may have keys that none has."""
    name: str
    """In the bucket."""
    upload_id: str
    began: float
    """Seconds since the epoch, by the store's clock."""


@dataclass(frozen=True, slots=True)
class Uploads:
    """The uploads in parts of one S3 store."""

    store: S3Store

    def begin(self, key: str, data: bytes) -> Unfinished:
        """Begins an upload and sends one part of it."""
        client, bucket, name = self.store.place_of(key)
        with _explained(f"begin an upload of {key} in {self.store.url}"):
            upload_id = client.create_multipart_upload(Bucket=bucket, Key=name)["UploadId"]
            client.upload_part(Bucket=bucket, Key=name, UploadId=upload_id, PartNumber=1, Body=data)
        return Unfinished(key=key, name=name, upload_id=upload_id, began=0.0)

    def abandon(self, upload: Unfinished) -> None:
        """Gives an upload up; its parts are removed. No error if it is not there any more."""
        from botocore.exceptions import ClientError

        client, bucket, _ = self.store.place_of("")
        with _explained(f"abandon an upload of {upload.key} in {self.store.url}"):
            try:
                client.abort_multipart_upload(Bucket=bucket, Key=upload.name, UploadId=upload.upload_id)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") != "NoSuchUpload":
                    raise

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        """Every upload to a key that starts with `prefix` and is neither complete nor abandoned."""
        client, bucket, above = self.store.place_of("")
        pages = client.get_paginator("list_multipart_uploads")
        with _explained(f"list the uploads in {self.store.url}"):
            for page in pages.paginate(Bucket=bucket, Prefix=above + prefix):
                for found in page.get("Uploads", ()):
                    yield Unfinished(
                        key=found["Key"].removeprefix(above),
                        name=found["Key"],
                        upload_id=found["UploadId"],
                        began=found["Initiated"].timestamp(),
                    )

    def bytes_of(self, upload: Unfinished) -> int:
        """What the parts that were sent take."""
        client, bucket, _ = self.store.place_of("")
        with _explained(f"list the parts of {upload.key} in {self.store.url}"):
            pages = client.get_paginator("list_parts").paginate(
                Bucket=bucket, Key=upload.name, UploadId=upload.upload_id
            )
            return sum(part["Size"] for page in pages for part in page.get("Parts", ()))


def uploads_of(store: ObjectStore) -> Uploads | None:
    """A store's uploads in parts; None for a store that has no such thing."""
    if not store.url.startswith("s3://"):
        return None
    from orchestrator.stores.s3 import S3Store

    return Uploads(store) if isinstance(store, S3Store) else None


@contextmanager
def _explained(action: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    from orchestrator.stores.s3_errors import explain

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise explain(error, action) from error

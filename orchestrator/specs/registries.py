"""Pure. What a fleet file says of each kind of registry; credentials never stand there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from orchestrator.specs.parts import Part


def without_credentials(url: str) -> str:
    """The URL itself. Errors: ValueError, if it holds a user, a password or a query, where tokens hide."""
    if "@" in url.split("://", 1)[-1].split("/", 1)[0] or "?" in url or "#" in url:
        raise ValueError("credentials do not stand in this file; they come from the environment")
    return url


def web_address(url: str) -> str:
    """An http(s) URL with a host, without a slash at its end. Errors: ValueError."""
    without_credentials(url)
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one or not url.isprintable() or " " in url:
        raise ValueError("write http://host:port or https://host")
    return url.rstrip("/")


WebAddress = Annotated[str, AfterValidator(web_address)]


class Select(Part):
    """Which versions of a registry are looked at: shell-style patterns, all of which must match."""

    name: str = "*"
    version: str = "*"
    alias: str | None = None
    """Only versions to which such an alias points; of a Hugging Face repository, a branch or a tag."""
    tags: Mapping[str, str] = {}
    """Only versions with such values of these tags."""


class DirectoryRegistrySpec(Part):
    """Model versions in a directory: PATH/<name>/<version>/config.json, or PATH/<name>/config.json."""

    kind: Literal["directory"]
    path: str


class S3RegistrySpec(Part):
    """Model versions in a bucket, laid out like a directory: URL/<name>/<version>/config.json."""

    kind: Literal["s3"]
    url: str
    """s3://bucket/prefix. Credentials come from the environment."""
    endpoint: Annotated[str, AfterValidator(without_credentials)] | None = None
    """Of an S3 server that is not AWS; AWS_ENDPOINT_URL is read where this is not set."""
    region: str | None = None
    path_style: bool | None = None
    """Put the bucket in the path; the default is yes where an endpoint is set."""
    select: Select = Select()

    @model_validator(mode="after")
    def _is_s3(self) -> S3RegistrySpec:
        without_credentials(self.url)
        if not self.url.startswith("s3://"):
            raise ValueError("url is s3://bucket or s3://bucket/prefix")
        return self


class MlflowRegistrySpec(Part):
    """Registered models of an MLflow server that serves its artifacts itself (`--serve-artifacts`, its default)."""

    kind: Literal["mlflow"]
    uri: WebAddress
    """http(s)://host:port of the server. MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and
    MLFLOW_TRACKING_PASSWORD, come from the environment."""
    select: Select = Select()


class HuggingFaceRegistrySpec(Part):
    """Repositories of a Hugging Face Hub, pinned by commit; or, with `cache`, what its local cache holds, without a network."""

    kind: Literal["huggingface"]
    repositories: tuple[str, ...] = ()
    """owner/name of each repository."""
    owner: str | None = None
    """All repositories of this user or organization."""
    revisions: tuple[str, ...] = ("main",)
    """Branches and tags whose commits are versions; patterns."""
    endpoint: WebAddress | None = None
    """Of a Hub that is not huggingface.co; HF_ENDPOINT is read where this is not set. HF_TOKEN comes from the
    environment."""
    cache: str | None = None
    """A directory of `models--owner--name/snapshots/<commit>`, as huggingface_hub keeps it: nothing else is read then."""
    private: bool = True
    """Whether a repository that publishing makes is private."""
    select: Select = Select()

    @model_validator(mode="after")
    def _names_something(self) -> HuggingFaceRegistrySpec:
        if not (self.repositories or self.owner or self.cache):
            raise ValueError("name repositories, an owner, or a cache: nobody scans the whole Hub")
        if self.cache and (self.endpoint or self.repositories or self.owner):
            raise ValueError("a cache is read as it is: leave endpoint, repositories and owner out")
        return self


RegistrySpec = Annotated[
    DirectoryRegistrySpec | S3RegistrySpec | MlflowRegistrySpec | HuggingFaceRegistrySpec,
    Field(discriminator="kind"),
]

SPECS: Mapping[Any, type[Part]] = {
    "directory": DirectoryRegistrySpec,
    "s3": S3RegistrySpec,
    "mlflow": MlflowRegistrySpec,
    "huggingface": HuggingFaceRegistrySpec,
}
"""By kind."""

"""Pure. What a fleet file says of each Ray cluster that it is carried out on; tokens never stand there."""

from __future__ import annotations

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from orchestrator.specs.parts import Name, Part


class ClusterSpec(Part):
    """A Ray cluster, and which of the fleet's pools lie in it. Its own environment holds the credentials of the store."""

    address: str
    """Of its dashboard, where its Jobs API is: https://host:8265, or http:// on this machine."""
    pools: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Each pool lies in one cluster."""
    token_env: str | None = None
    """An environment variable that holds the cluster's token; the default is where Ray itself looks: RAY_AUTH_TOKEN, the file
    that RAY_AUTH_TOKEN_PATH names, ~/.ray/auth_token."""
    token_file: str | None = None
    """A file that holds it."""
    ca_file: str | None = None
    """The certificates that sign the cluster's own, where the system's do not."""
    python: str = "python3"
    """The Python on the cluster that runs prunefleet there."""

    @model_validator(mode="after")
    def _usable(self) -> Self:
        place = urlsplit(self.address)
        if place.scheme not in ("http", "https") or not place.hostname:
            raise ValueError("address is that of the cluster's dashboard, such as https://ray.example:8265")
        if place.username is not None or place.password is not None or place.query or place.fragment:
            raise ValueError("credentials do not stand in this file; name token_env or token_file")
        if self.token_env is not None and self.token_file is not None:
            raise ValueError("token_env and token_file exclude each other")
        if self.ca_file is not None and place.scheme != "https":
            raise ValueError("ca_file is for https:// addresses")
        return self

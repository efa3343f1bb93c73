"""Effects. A client for the S3 server that a store's spec names, and the same facts in deltalake's words."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from orchestrator.spec import StoreSpec
from orchestrator.stores.s3_repeats import pause_before_repeat

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONNECTIONS = 32


def connect(spec: StoreSpec) -> S3Client:
    """A client with boto3's own credential chain, our own repetition, and timeouts; sends nothing."""
    endpoint = _endpoint(spec)
    checksums: Literal["when_supported", "when_required"] = "when_required"
    if endpoint is None or _is_aws(endpoint):
        checksums = "when_supported"  # elsewhere many servers refuse what boto3 adds by default
    session = boto3.Session()
    config = Config(
        connect_timeout=5,
        read_timeout=60,
        max_pool_connections=_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": 1},
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
        s3={"addressing_style": "path" if _is_path_style(spec) else "auto"},
    )
    region = spec.region or session.region_name or ("us-east-1" if endpoint else None)
    client = session.client("s3", endpoint_url=endpoint, region_name=region, config=config)
    hooks: Any = client.meta.events  # typed as if no hook answered anything
    hooks.register("needs-retry.s3", _pause)
    return client


def delta_options(spec: StoreSpec, client: S3Client) -> dict[str, str]:
    """The storage options of deltalake for the same server; they hold credentials, so they are never shown."""
    options = {"aws_conditional_put": "etag", "aws_region": client.meta.region_name or "us-east-1"}
    endpoint = client.meta.endpoint_url
    if not _is_aws(endpoint):
        options["aws_endpoint_url"] = endpoint
        options["aws_allow_http"] = str(endpoint.startswith("http://")).lower()
        options["aws_virtual_hosted_style_request"] = str(not _is_path_style(spec)).lower()
    if (found := boto3.Session().get_credentials()) is not None:
        frozen = found.get_frozen_credentials()
        options["aws_access_key_id"] = frozen.access_key or ""
        options["aws_secret_access_key"] = frozen.secret_key or ""
        if frozen.token:
            options["aws_session_token"] = frozen.token
    return options


def _pause(attempts: int, response: Any, caught_exception: Exception | None, **_: Any) -> float | None:
    """What boto3 asks after every answer (HTTP response and parsed body) or error: None, or seconds to the next try."""
    status, parsed = (response[0].status_code, response[1]) if response is not None else (0, {})
    return pause_before_repeat(
        attempts,
        status=status,
        code=str(parsed.get("Error", {}).get("Code", "")),
        error=caught_exception,
        chance=random.random(),
    )


def _endpoint(spec: StoreSpec) -> str | None:
    return spec.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _is_path_style(spec: StoreSpec) -> bool:
    endpoint = _endpoint(spec)
    return spec.path_style if spec.path_style is not None else endpoint is not None and not _is_aws(endpoint)


def _is_aws(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))

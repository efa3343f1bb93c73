"""How Arrow reaches the files of a table: by its own file systems, with what deltalake was told."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import fs

from orchestrator.tables.delta import files_at

KEYS = {"aws_access_key_id": "me", "aws_secret_access_key": "s3cret", "aws_region": "eu-west-1"}
KNOWN = {
    "access_key": "me",
    "secret_key": "s3cret",
    "region": "eu-west-1",
    "connect_timeout": 5,
    "retry_strategy": fs.AwsDefaultS3RetryStrategy(max_attempts=6),
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)


def check(options: dict[str, str], **expected: object) -> None:
    found = files_at("s3://bucket/a/prefix/tables/units", KEYS | options)
    assert isinstance(found, fs.SubTreeFileSystem)
    assert found.base_path == "bucket/a/prefix/tables/units/"
    assert found.base_fs.equals(fs.S3FileSystem(**KNOWN, **expected))


def test_a_folder_is_read_by_arrow_itself(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    folder.joinpath("x").write_bytes(b"seen")
    found = files_at(str(folder), {})
    assert isinstance(found, fs.SubTreeFileSystem)
    assert isinstance(found.base_fs, fs.LocalFileSystem)
    with found.open_input_file("x") as file:
        assert file.read() == b"seen"


def test_aws_needs_the_region_alone() -> None:
    check({}, scheme="https")


def test_what_differs_is_seen_by_the_comparison() -> None:
    with pytest.raises(AssertionError):
        check(
            {"aws_endpoint_url": "http://127.0.0.1:9000"}, scheme="http", endpoint_override="127.0.0.1:9001"
        )
    with pytest.raises(AssertionError):
        check({}, scheme="https", proxy_options="http://proxy:3128")


def test_any_other_server_is_reached_at_its_endpoint() -> None:
    check({"aws_endpoint_url": "http://127.0.0.1:9000"}, scheme="http", endpoint_override="127.0.0.1:9000")
    check({"aws_endpoint_url": "https://s3.local/"}, scheme="https", endpoint_override="s3.local")


def test_a_session_token_and_virtual_hosts_are_taken_over() -> None:
    check(
        {
            "aws_endpoint_url": "https://s3.local",
            "aws_virtual_hosted_style_request": "true",
            "aws_session_token": "for an hour",
        },
        scheme="https",
        endpoint_override="s3.local",
        force_virtual_addressing=True,
        session_token="for an hour",
    )


def test_the_environment_s_proxy_is_used_but_for_hosts_that_need_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "s3.local")
    check({}, scheme="https", proxy_options="http://proxy:3128")
    inside = {"aws_endpoint_url": "https://s3.local:9000"}
    check(inside, scheme="https", endpoint_override="s3.local:9000")
    monkeypatch.setenv("no_proxy", "*")
    check({}, scheme="https")


def test_the_environment_s_certificates_are_those_of_boto3(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    check({}, scheme="https", tls_ca_file_path=str(bundle))

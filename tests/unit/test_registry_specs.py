"""Specs of registries that are refused before anything is asked."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from orchestrator.specs.registries import HuggingFaceRegistrySpec, MlflowRegistrySpec, S3RegistrySpec


@pytest.mark.parametrize(
    "make",
    [
        lambda: MlflowRegistrySpec(kind="mlflow", uri="http://ada:pw@host:5000"),
        lambda: MlflowRegistrySpec(kind="mlflow", uri="http://host:5000/?token=x"),
        lambda: MlflowRegistrySpec(kind="mlflow", uri="file:///mlruns"),
        lambda: MlflowRegistrySpec(kind="mlflow", uri="sqlite:///x.db"),
        lambda: S3RegistrySpec(kind="s3", url="s3://key:secret@bucket/models"),
        lambda: S3RegistrySpec(kind="s3", url="https://bucket/models"),
        lambda: S3RegistrySpec(kind="s3", url="s3://bucket/models", endpoint="http://key:secret@host"),
        lambda: HuggingFaceRegistrySpec(kind="huggingface", owner="org", endpoint="https://token@hub"),
        lambda: HuggingFaceRegistrySpec(kind="huggingface"),
        lambda: HuggingFaceRegistrySpec(kind="huggingface", cache="/x", owner="org"),
    ],
)
def test_a_spec_with_credentials_or_with_no_server_is_refused(make):
    with pytest.raises(ValidationError):
        make()

"""A store with an artifact, and a directory to publish into."""

from __future__ import annotations

import pytest
from cases.publications import make_artifact

from orchestrator.registries.directory_outlet import DirectoryOutlet
from orchestrator.stores.local import LocalStore


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


@pytest.fixture
def target(tmp_path):
    return DirectoryOutlet("out", tmp_path / "out")


@pytest.fixture
def artifact(store, tmp_path):
    return make_artifact(store, tmp_path)

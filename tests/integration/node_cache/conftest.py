"""The directory of a cache, and processes that ask for its entries."""

from __future__ import annotations

import os

import pytest
from cases.node_caches import Asker


@pytest.fixture
def askers(tmp_path):
    started = []

    def ask(*arguments, **options):
        started.append(Asker(*arguments, **options))
        return started[-1]

    yield ask
    for asker in started:
        asker.process.kill()
        asker.process.communicate()


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "cache"
    yield path
    for parent, _, _ in os.walk(path):
        os.chmod(parent, 0o755)

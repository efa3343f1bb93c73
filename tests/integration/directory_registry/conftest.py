"""The files that were opened."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cases.model_directories import OPENINGS


@pytest.fixture
def openings() -> Iterator[list[str]]:
    OPENINGS.names.clear()
    OPENINGS.watching = True
    yield OPENINGS.names
    OPENINGS.watching = False

"""The made-up night and its page, once for every test that only reads them."""

from __future__ import annotations

import pytest
from cases.reports import night

from orchestrator.reports.report import (
    render_html,
)


@pytest.fixture(scope="module")
def four():
    return night()


@pytest.fixture(scope="module")
def page(four):
    return render_html(four)

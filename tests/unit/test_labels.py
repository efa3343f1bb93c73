"""Label selectors mean what Ray means by them."""

from __future__ import annotations

import pytest

from orchestrator.labels import satisfies


@pytest.mark.parametrize(
    ("labels", "selector", "holds"),
    [
        ({}, {}, True),
        ({"a": "L4"}, {"a": "L4"}, True),
        ({"a": "L4"}, {"a": "H100"}, False),
        ({}, {"a": "L4"}, False),
        ({"a": "L4"}, {"a": "!L4"}, False),
        ({"a": "L4"}, {"a": "!H100"}, True),
        ({}, {"a": "!H100"}, True),
        ({"a": "L4"}, {"a": "in(L4, H100)"}, True),
        ({"a": "A10"}, {"a": "in(L4,H100)"}, False),
        ({"a": "A10"}, {"a": "!in(L4,H100)"}, True),
        ({"a": "L4", "b": "spot"}, {"a": "L4", "b": "spot"}, True),
        ({"a": "L4", "b": "spot"}, {"a": "L4", "b": "!spot"}, False),
    ],
)
def test_a_selector(labels, selector, holds):
    assert satisfies(labels, selector) is holds

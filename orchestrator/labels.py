"""Pure. Whether a node's labels satisfy a selector, by Ray's rules: `v`, `!v`, `in(a,b)`, `!in(a,b)`."""

from __future__ import annotations

from collections.abc import Mapping


def satisfies(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether every condition of the selector holds; a missing label satisfies only the negative ones."""
    return all(_holds(labels.get(key), condition) for key, condition in selector.items())


def _holds(value: str | None, condition: str) -> bool:
    negative = condition.startswith("!")
    body = condition.removeprefix("!")
    wanted = (
        [item.strip() for item in body[3:-1].split(",")]
        if body.startswith("in(") and body.endswith(")")
        else [body]
    )
    return (value in wanted) != negative

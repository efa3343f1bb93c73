"""Pure. The model card of what prunefleet publishes: its base, how it was made, and what was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

CARD = "README.md"
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
MEASURED = "measured."
"""Lineage whose keys begin so are results."""


def model_card(label: str, lineage: Mapping[str, str]) -> str:
    """Markdown with a YAML head; whatever came from outside is quoted."""
    base = lineage.get("model", "")
    head = ["---", "library_name: transformers", "tags: [prunefleet, pruned]"]
    if _REPOSITORY.fullmatch(base):
        head.append(f"base_model: {json.dumps(base)}")
    measured = {
        key.removeprefix(MEASURED): value for key, value in lineage.items() if key.startswith(MEASURED)
    }
    made = {key: value for key, value in lineage.items() if not key.startswith(MEASURED)}
    lines = [*head, "---", "", f"# {_cell(label)}", "", "Compressed by prunefleet.", ""]
    for title, rows in (("Measured", measured), ("Made from", made)):
        if rows:
            lines += [f"## {title}", "", "| what | value |", "|---|---|"]
            lines += [f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items()]
            lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    plain = "".join(character if character.isprintable() else " " for character in text)
    return re.sub(r"([\\`*_\[\]<>|#!])", r"\\\1", plain)

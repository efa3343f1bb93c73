"""Pure. What every page is made with: templates in which foreign text is inert, and inline files with their hashes."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from orchestrator import wording

_TEMPLATES = Path(__file__).parent / "templates"


def templates() -> Environment:
    """A new environment for the templates, with the words and numbers that all of them use; HTML is escaped."""
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "plain": wording.plain,
        "code": wording.code,
        "duration": wording.duration,
        "moment": wording.moment,
    }
    made.globals |= {"count": wording.count, "NAME": wording.NAME_LENGTH, "MISSING": wording.MISSING}
    return made


@cache
def inline(name: str) -> tuple[Markup, str]:
    """A style sheet or script, and its SHA-256 as the Content-Security-Policy of the page that holds it names it."""
    text = (_TEMPLATES / name).read_text(encoding="utf-8")
    return Markup(text), base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

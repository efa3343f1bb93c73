"""How the documentation is built: `make docs`. The reference pages are made from the code each time."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

project = "prunefleet"
author = "the prunefleet authors"
extensions = ["myst_parser"]
myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "prunefleet"
exclude_patterns = ["_build"]
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository, which a test follows
templates_path: list[str] = []


def write_reference(app: object) -> None:
    """Pages that the code writes, before Sphinx reads any."""
    import reference

    reference.write(HERE / "reference")


def setup(app: object) -> None:
    """Sphinx calls this."""
    app.connect("builder-inited", write_reference)  # type: ignore[attr-defined]

"""Effects. Which prunefleet this is: its version, and what it was built from as far as the installation tells."""

from __future__ import annotations

import json
from importlib import metadata

DISTRIBUTION = "prunefleet"


def release() -> str:
    """For example `prunefleet 0.1.0 (commit 0123456789ab)`."""
    try:
        found = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return f"{DISTRIBUTION} (not installed: run from its sources)"
    return f"{DISTRIBUTION} {found.version} ({built_from(found.read_text('direct_url.json'))})"


def built_from(origin: str | None) -> str:
    """What a `direct_url.json` (PEP 610) says: a commit, an editable checkout, a file; nothing means a package index."""
    if origin is None:
        return "from a package index"
    try:
        told = json.loads(origin)
        if commit := told.get("vcs_info", {}).get("commit_id"):
            return f"commit {str(commit)[:12]}"
        if told.get("dir_info", {}).get("editable"):
            return "editable checkout"
        if digest := told.get("archive_info", {}).get("hashes", {}).get("sha256"):
            return f"archive sha256:{str(digest)[:12]}"
    except (ValueError, AttributeError):
        return "of unknown origin"
    return "from a directory or file"

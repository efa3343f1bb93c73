"""What an installation says of itself, by PEP 610."""

from __future__ import annotations

import json
import re

import pytest

from orchestrator.release import built_from, release


@pytest.mark.parametrize(
    ("origin", "told"),
    [
        (None, "from a package index"),
        ({"vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef"}}, "commit 0123456789ab"),
        ({"dir_info": {"editable": True}}, "editable checkout"),
        ({"dir_info": {}}, "from a directory or file"),
        ({"archive_info": {"hashes": {"sha256": "feedfacecafebeef"}}}, "archive sha256:feedfacecafe"),
        ({"archive_info": {}}, "from a directory or file"),
        ([], "of unknown origin"),
        ({"vcs_info": 3}, "of unknown origin"),
    ],
)
def test_each_origin_is_told(origin, told):
    assert built_from(None if origin is None else json.dumps(origin)) == told


def test_what_is_no_json_is_of_unknown_origin():
    assert built_from("{") == "of unknown origin"


def test_version_and_origin_are_one_line():
    assert re.fullmatch(r"prunefleet (\d+\.\d+\.\d+\S* )?\(.+\)", release())

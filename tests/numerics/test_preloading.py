"""What a server loads before children are forked from it."""

from __future__ import annotations

import gc
import sys


def test_what_children_inherit_is_loaded_and_frozen():
    try:
        from tasks.preloading import NEEDED, preload  # which acts at once, as its server wants it

        preload()
        assert set(NEEDED) <= set(sys.modules)
        assert gc.get_freeze_count() > 100_000
    finally:
        gc.unfreeze()

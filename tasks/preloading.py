"""Effects. Imported last by a server that children are forked from: loads what a process's first model costs, once for all.

What is loaded is then frozen: the garbage collector of each child would touch, and so copy, every object of it.
"""

from __future__ import annotations

import gc
import importlib
from contextlib import suppress

NEEDED = (
    "tasks.pruning",
    "tasks.sensitivity",
    "tasks.evaluation",
    "transformers.generation.utils",
    "transformers.modeling_layers",
    "transformers.models.auto.modeling_auto",
)
OPTIONAL = ("pandas",)  # pyarrow looks for it as soon as it makes an array


def preload() -> None:
    """Loads all that attempts have in common, and freezes it."""
    for name in NEEDED:
        importlib.import_module(name)
    for name in OPTIONAL:
        with suppress(ImportError):
            importlib.import_module(name)
    rules = importlib.import_module("transformers.conversion_mapping")
    rules.get_checkpoint_conversion_mapping("llama")  # makes the rules of every family, and keeps them
    gc.freeze()


preload()

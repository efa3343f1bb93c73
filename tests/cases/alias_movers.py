"""Whoever moves an alias many times, in a thread or a process of its own."""

from __future__ import annotations

import time
from pathlib import Path

from orchestrator.promotion.aliases import Move, move_alias
from orchestrator.registries.opening import open_outlet
from orchestrator.specs.registries import RegistrySpec
from orchestrator.stores.local import LocalStore

ALIAS = "champion"


def move_often(store: Path, spec: RegistrySpec, model: str, versions: tuple[str, str], times: int) -> None:
    """Moves the alias to one version and the other in turn."""
    for number in range(times):
        move = Move(
            registry="out", model=model, alias=ALIAS, published_version=versions[number % 2], at=time.time(), actor="mover",
            reason="the race",
        )  # fmt: skip
        assert move_alias(LocalStore(store), open_outlet("out", spec), move) is not None

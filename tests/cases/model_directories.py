"""Directories with tiny models, scanned, and an ear for the files that are opened."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from orchestrator.domain import ModelVersion
from orchestrator.registries.directory import DirectoryRegistry
from orchestrator.registries.memory import DigestMemory

CONFIG = json.dumps({"architectures": ["TinyForCausalLM"]}).encode()


def weights(size: int = 4) -> bytes:
    text = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


def make(directory: Path, size: int = 4) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_bytes(CONFIG)
    (directory / "model.safetensors").write_bytes(weights(size))
    return directory


def scan(root: Path, memory: DigestMemory | None = None) -> list[ModelVersion]:
    return list(DirectoryRegistry("zoo", root, memory).scan())


def ids(root: Path) -> list[str]:
    return [f"{model.name}@{model.version}" for model in scan(root)]


def problems(root: Path) -> dict[str, str]:
    return {f"{model.name}@{model.version}": model.problem for model in scan(root) if model.problem}


class Openings:
    """Names of the files that this process opened while `watching`, told by the interpreter itself."""

    def __init__(self) -> None:
        self.watching = False
        self.names: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.watching and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            self.names.append(os.path.basename(os.fsdecode(arguments[0])))


OPENINGS = Openings()

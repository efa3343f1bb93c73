"""Pure. What a fleet file says of each kind of registry; credentials never stand there."""

from __future__ import annotations

from typing import Literal

from orchestrator.specparts import Part


class DirectoryRegistrySpec(Part):
    """Model versions in a directory: PATH/<name>/<version>/config.json, or PATH/<name>/config.json."""

    kind: Literal["directory"]
    path: str


RegistrySpec = DirectoryRegistrySpec

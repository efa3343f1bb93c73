"""Pure. The text of `aliases.json`: versions by alias, never believed without a look at every name."""

from __future__ import annotations

import json
from collections.abc import Mapping

from orchestrator.errors import RegistryError
from orchestrator.names import problem_of_part, shown

FILE = "aliases.json"
MAX_FILE_BYTES = 1_000_000


def parse_aliases(data: bytes | None) -> dict[str, str]:
    """Alias -> version; nothing if there is no file. Errors: RegistryError."""
    if data is None:
        return {}
    try:
        aliases = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RegistryError(f"{FILE} cannot be read: {error}; correct it or remove it") from error
    if not isinstance(aliases, dict):
        raise RegistryError(f"{FILE} is not an object of versions by alias; correct it or remove it")
    for alias, version in aliases.items():
        for name in (alias, version):
            if why := problem_of_part(name) if isinstance(name, str) else "it is no text":
                raise RegistryError(
                    f"in {FILE}, {shown(str(name))!r} cannot be used: {why}; correct it or remove it"
                )
    return aliases


def alias_text(aliases: Mapping[str, str]) -> bytes:
    """The file, in one form for the same aliases."""
    return (json.dumps(aliases, indent=1, sort_keys=True) + "\n").encode()

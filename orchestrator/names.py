"""Pure. Names from outside: which may become a path, how they are shown, and the order in which people count."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import unquote

MAX_PART_BYTES = 255  # what Linux file systems allow one part of a path
MAX_NAME_BYTES = 512
SHOWN_CHARACTERS = 160

_NUMBERS = re.compile(r"([0-9]+)")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")

NaturalKey = tuple[tuple[tuple[int, int, str], ...], str]


def natural(name: str) -> NaturalKey:
    """A sort key in which v2 comes before v10; two names never have the same key."""
    parts = []
    for index, part in enumerate(_NUMBERS.split(name)):
        digits = part.lstrip("0") if index % 2 else ""
        parts.append((1, len(digits), digits) if index % 2 else (0, 0, part))
    return tuple(parts), name


def shown(name: str) -> str:
    """The name with everything escaped that is not printable, and cut to a line's length."""
    safe = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in name[: SHOWN_CHARACTERS + 1]
    )
    return safe if len(safe) <= SHOWN_CHARACTERS else safe[: SHOWN_CHARACTERS - 1] + "…"


@lru_cache(maxsize=4096)  # ten thousand models have the same three file names
def problem_of_part(part: str) -> str:
    """Why this cannot be one part of a path of ours; empty if it can."""
    if not part:
        return "it is empty"
    if not part.isprintable():
        return "it contains a character that cannot be printed"
    if len(part.encode()) > MAX_PART_BYTES:
        return f"it is longer than {MAX_PART_BYTES} bytes"
    if part != part.strip():
        return "it begins or ends with a space"
    for form in (part, unicodedata.normalize("NFKC", part), unquote(part)):
        if form.startswith("."):
            return "it begins with a dot"
        if "/" in form or "\\" in form or "\0" in form:
            return "it contains a path separator"
    return ""


def problem_of_path(path: str) -> str:
    """Why this cannot be a relative, `/`-separated path of ours; empty if it can."""
    if path.startswith("/"):
        return "it is absolute"
    if len(path.encode(errors="surrogatepass")) > MAX_NAME_BYTES:
        return f"it is longer than {MAX_NAME_BYTES} bytes"
    for part in path.split("/"):
        if why := problem_of_part(part):
            return why if part == path else f"{why} (the part {shown(part)!r})"
    return ""


def clash(paths: Iterable[str]) -> tuple[str, str] | None:
    """Two paths that a file system which ignores case, or composes accents, would make one; None if there are none."""
    seen: dict[str, str] = {}
    for path in sorted(paths):
        folded = folding(path)
        if folded in seen:
            return seen[folded], path
        seen[folded] = path
    return None


def folding(name: str) -> str:
    """What two names have in common that some file systems hold for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def is_sha256(text: object) -> bool:
    """Whether this is a digest as we write them: 64 lower-case hex digits."""
    return isinstance(text, str) and bool(_SHA256.match(text))

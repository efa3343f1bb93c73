"""Pure. Takes secrets out of a text: what the environment holds as one, and what looks like one wherever it stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote

MASK = "***"
SHORTEST = 6
"""Characters; to mask every occurrence of a shorter value would make texts unreadable and hide nothing."""

_NAMES = re.compile(
    r"SECRET|TOKEN|PASSW|PASSPHRASE|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|_PAT\Z", re.IGNORECASE
)
_PUBLIC = re.compile(r"(_FILE|_PATH|_DIR|_MODE|_ID|_URL|_URI|_ENDPOINT|_PARALLELISM)\Z", re.IGNORECASE)
"""Variables that say where a secret is, or whose; userinfo in a URL is masked all the same."""
_PASSWORD = re.compile(r"\A[A-Za-z][A-Za-z0-9+.-]*://[^/:@]*:(.+)@")
_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/@'\"<>]+@"), rf"\1{MASK}@"),
    (
        re.compile(
            r"([?&;](?:[A-Za-z-]*(?:signature|token|credential|secret|password|api_?key)|sig|key)=)[^&\s'\"<>]+",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"((?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\1{MASK}"),
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
        ),
        MASK,
    ),
)


def secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The values that are secrets by their variables' names, and the passwords in URLs, longest first."""
    named = {value for name, value in environment.items() if _NAMES.search(name) and not _PUBLIC.search(name)}
    in_urls = {match[1] for value in environment.values() if (match := _PASSWORD.search(value))}
    values = {value for value in named | in_urls if len(value) >= SHORTEST}
    return tuple(sorted(values, key=lambda value: (-len(value), value)))


def redacted(text: str, secrets: Iterable[str]) -> str:
    """The text with every secret masked, also where it is escaped or quoted for a URL, and everything that looks like one."""
    for secret in secrets:
        for form in (secret, quote(secret, safe=""), repr(secret)[1:-1]):
            text = text.replace(form, MASK)
    for shape, mask in _SHAPES:
        text = shape.sub(mask, text)
    return text

"""Effects. The secrets that this process could meet, and texts without them: called wherever a message leaves a process."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from orchestrator.redaction import SHORTEST, redacted, secrets_of

MOST_BYTES = 1 << 16

_ASSIGNED = re.compile(
    r"^\s*(?:aws_secret_access_key|aws_session_token)\s*=\s*(\S+)", re.MULTILINE | re.IGNORECASE
)
_NETRC = re.compile(r"\bpassword\s+(\S+)")
_WHOLE = re.compile(r"\A\s*(\S+)\s*\Z")
_FILES: tuple[tuple[str, str, re.Pattern[str]], ...] = (
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", _ASSIGNED),
    ("AWS_CONFIG_FILE", "~/.aws/config", _ASSIGNED),
    ("NETRC", "~/.netrc", _NETRC),
    ("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token", _WHOLE),
    ("HF_TOKEN_PATH", "~/.cache/huggingface/token", _WHOLE),
)
"""The variable that names the file, where it is otherwise, and what in it is secret."""


def known_secrets() -> tuple[str, ...]:
    """Those of the environment, and those of the files in which the libraries in use look for credentials."""
    found = {*secrets_of(os.environ), *(secret for secret in _in_files() if len(secret) >= SHORTEST)}
    return tuple(sorted(found, key=lambda secret: (-len(secret), secret)))


def masked(text: str) -> str:
    """The text without secrets."""
    return redacted(text, known_secrets())


def _in_files() -> Iterator[str]:
    for variable, usual, pattern in _FILES:
        try:
            with Path(os.environ.get(variable) or usual).expanduser().open("rb") as file:
                text = file.read(MOST_BYTES).decode(errors="replace")
        except (OSError, RuntimeError):  # it is not there, is not ours to read, or there is no home
            continue
        yield from pattern.findall(text)

"""Pure. Names, paths and addresses that mean harm, and seeded mixtures of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

ADDRESSES = [
    "file:///etc/passwd", "file:/etc/passwd", "/etc/passwd", "../../etc/passwd", "s3://bucket/model", "gs://bucket/x",
    "http://169.254.169.254/latest/meta-data/", "http://2852039166/", "http://0xa9fea9fe/", "http://[::ffff:169.254.169.254]/",
    "gopher://127.0.0.1:11211/_stats", "ftp://127.0.0.1/x", "dbfs:/x", "hdfs://host/x", "runs:/abc/model", "models:/other/1",
    "mlflow-artifacts://evil.example/1/x", "mlflow-artifacts://user:pw@127.0.0.1:5000/1/x", "mlflow-artifacts:/../../etc",
    "mlflow-artifacts:/1/%2e%2e/%2e%2e/etc", "mlflow-artifacts:/1/..%2f..%2fetc", "mlflow-artifacts:/1/a?x=1",
    "mlflow-artifacts:/1/a#b", "mlflow-artifacts:/1//a", "mlflow-artifacts:/", "mlflow-artifacts:", "", "mlflow-artifacts:/1/.hidden",
    "mlflow-artifacts:/1/a\\..\\b", "mlflow-artifacts:/1/a\0b", "mlflow-artifacts:/1/\u2024\u2024/x", "MLFLOW-ARTIFACTS://evil/x",
    "http://127.0.0.1:5000@evil.example/api/2.0/mlflow-artifacts/artifacts/1/x", "http://[", "mlflow-artifacts://[/x",
    "http://127.0.0.1:5000/api/2.0/mlflow-artifacts/artifacts/../../secret", "https://127.0.0.1:5000/x", "javascript:alert(1)",
]  # fmt: skip
"""None of them lies in the artifact store of a server."""
NAMES = [
    "../../etc", "/etc", "..", ".", ".ssh", "a/../b", "a/./b", "a//b", "a\0b", "a\nb", "\x1b[2J", "%2e%2e", "%2E%2E%2fx", "..%2f", "%00",
    "a\\b", "..\\..\\etc", "C:\\x", "\\\\host\\share", "x" * 600, "y" * 10_000, "\u202egnp", " a", "a ", "\u2024\u2024", "\uff0e\uff0e",
    "a\uff0fb", "\ufeff.ssh", "a\u200bb", "\ud7ff\uffff", "CON", "-rf", "~", "$(id)", "`id`", "|id", "a;b", "\u0430dmin", "A", "a",
]  # fmt: skip
"""No part of a path is called so, except the last ones, which are only odd."""
_BITS = [
    "..", "/", "//", "%2e", "%2f", "\\", "\0", "@", ":", "#", "?", "[", "]", "\u2024", "\uff0f", "a", "1", "evil.example", "~", " ",
]  # fmt: skip


def mutants(seeds: Sequence[str], number: int, seed: int = 11) -> Iterator[str]:
    """Texts made of `seeds` with one to three hostile bits put somewhere into each."""
    draw = random.Random(seed)
    for _ in range(number):
        text = list(draw.choice(seeds))
        for _ in range(draw.randint(1, 3)):
            text.insert(draw.randint(0, len(text)), draw.choice(_BITS))
        yield "".join(text)


def paths(number: int, seed: int = 12) -> Iterator[str]:
    """Paths of one to three hostile parts, each different from the others."""
    draw, seen = random.Random(seed), set[str]()
    while len(seen) < number:
        parts = list(mutants(NAMES, draw.randint(0, 2), draw.getrandbits(32)))
        path = "/".join([*parts, draw.choice(NAMES)])
        if path not in seen:
            seen.add(path)
            yield path

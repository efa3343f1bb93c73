"""Pure. Numbers and foreign names as people read them, on one line, with nothing in them that acts."""

from __future__ import annotations

import math
import re
import unicodedata
from datetime import datetime

NAME_LENGTH = 72
TEXT_LENGTH = 400
TITLE_LENGTH = 600
MISSING = "–"

_LOOK = 20_000  # characters of a foreign text that are looked at; no shown text is longer
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_STACKED = 4  # combining marks that may follow one another


def plain(text: object, limit: int = TEXT_LENGTH) -> str:
    """One line of visible characters, shortened in its middle.

    Control, format, bidirectional and unassigned characters become their code, as in `\\u202e`.
    """
    shown, marks = [], 0
    for character in str(text)[:_LOOK]:
        category = unicodedata.category(character)
        marks = marks + 1 if category == "Mn" else 0
        if character in "\t\n\r":
            shown.append(" ")
        elif category in _UNSEEN:
            shown.append(f"\\u{ord(character):04x}")
        elif marks <= _STACKED:
            shown.append(character)
    return shorten("".join(shown), limit)


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters: the beginning and the end, which tell names apart."""
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    return f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"


def number(value: float | None, digits: int = 4) -> str:
    """Significant digits, a real minus sign, thousands apart."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size != 0 and (size < 1e-4 or size >= 1e7):
        return _minus(f"{value:.{max(0, digits - 2)}e}")
    places = max(0, digits - 1 - math.floor(math.log10(size))) if size else 0
    return _minus(f"{value:,.{places}f}")


def count(value: int, noun: str) -> str:
    """`1 model`, `2 models`."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share, 0 to 1."""
    return MISSING if value is None or not math.isfinite(value) else _minus(f"{100 * value:.{digits}f} %")


def change(value: float | None, unit: str = "%") -> str:
    """A signed change, given as a share: `+3.1 %` or `−2.0 pt`."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "+∞" if value > 0 else "−∞"
    scaled = 100 * value
    digits = 0 if abs(scaled) >= 1000 else 1 if abs(scaled) >= 1 else 2
    text = f"{scaled:+,.{digits}f}"
    return f"{_minus('0' if not re.search('[1-9]', text) else text)} {unit}"


def size(value: float | None) -> str:
    """Bytes, in decimal units."""
    if value is None:
        return MISSING
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if abs(value) < 999.5 or unit == "PB":
            break
        value /= 1000
    return _minus(f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 99.5 else f"{value:.1f} {unit}")


def duration(seconds: float | None) -> str:
    """Seconds, as the two largest units."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for name, length, part, share in (
        ("d", 86_400, "h", 3_600),
        ("h", 3_600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= length:
            return f"{whole // length} {name} {whole % length // share} {part}"
    return f"{whole} s"


def milliseconds(seconds: float | None) -> str:
    """A short time, as of one forward pass."""
    return MISSING if seconds is None else f"{number(1000 * seconds, 3)} ms"


def moment(value: object) -> str:
    """A date and time, to the minute."""
    return (
        value.strftime("%Y-%m-%d %H:%M %Z").strip()
        if isinstance(value, datetime)
        else plain(value or MISSING, 40)
    )


def code(text: object, limit: int = NAME_LENGTH) -> str:
    """A foreign name as a code span of a Markdown table: no mark-up, link or mention in it has an effect."""
    shown = plain(text, limit).replace("\\", "\\\\").replace("|", "\\|") if text else MISSING
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    pad = " " if shown.startswith("`") or shown.endswith("`") or shown.isspace() else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _minus(text: str) -> str:
    return text.replace("-", "−")

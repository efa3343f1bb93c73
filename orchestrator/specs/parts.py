"""Pure. What every part of a fleet file is made of: names, shares, sizes, and the rule that unknown keys are refused."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i?B|B)?\Z")
_SCALES = {
    "B": 1,
    **{f"{p}B": 1000**i for i, p in enumerate("KMGT", 1)},
    **{f"{p}iB": 1024**i for i, p in enumerate("KMGT", 1)},
}

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]


def size_in_bytes(value: Any) -> Any:
    """`8GiB`, `500MB` or a plain number -> bytes."""
    if isinstance(value, str):
        match = _SIZE.match(value.strip())
        if not match:
            raise ValueError("a size is a number of bytes or text such as 8GiB or 500MB")
        return int(float(match[1]) * _SCALES[match[2] or "B"])
    return value


Size = Annotated[int, BeforeValidator(size_in_bytes), Field(gt=0)]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, use_attribute_docstrings=True)


def with_defaults(value: Any) -> Any:
    """`true` and `false` -> the defaults, or nothing."""
    return ({} if value else None) if isinstance(value, bool) else value

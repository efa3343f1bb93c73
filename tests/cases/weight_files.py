"""Files of weights, written by hand."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from tasks.files.headers import check_header
from tasks.files.layouts import INDEX


def pack(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def check(content: bytes) -> dict[str, Any]:
    return check_header(content, len(content), "model.safetensors")


def tensor(begin: int, end: int, shape: Any = None, dtype: Any = "F32") -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 4] if shape is None else shape,
        "data_offsets": [begin, end],
    }


def write(path: Path, tensors: dict[str, list[float]]) -> Path:
    header, data = {}, b""
    for name, values in tensors.items():
        header[name] = tensor(len(data), len(data) + 4 * len(values))
        data += struct.pack(f"<{len(values)}f", *values)
    path.write_bytes(pack(header, data))
    return path


def write_index(directory: Path, weight_map: dict[str, Any], **metadata: Any) -> None:
    (directory / INDEX).write_text(json.dumps({"metadata": metadata, "weight_map": weight_map}))

"""Pure. The files of the smallest model that a registry takes for one."""

from __future__ import annotations

import json


def tensors(**shapes: tuple[int, ...]) -> bytes:
    """A safetensors file of float32 zeros."""
    header, position = {}, 0
    for name, shape in shapes.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + bytes(position)


def model(architecture: str = "TinyForCausalLM", **more: bytes) -> dict[str, bytes]:
    """Files by name."""
    config = json.dumps({"architectures": [architecture], "model_type": "tiny"}).encode()
    return {"config.json": config, "model.safetensors": tensors(a=(4, 3), b=(5,)), **more}

"""Headers, indexes, configs and whole models from a stranger who means it, each drawn from a seed."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from tasks.files.headers import DTYPE_BITS
from tasks.files.layouts import INDEX, SINGLE

Chance = random.Random


Problems = list[str]


class Pairs(list[tuple[str, Any]]):
    """A JSON object that may say one key twice."""


class Raw(str):
    """JSON text that is written as it stands."""


def rendered(value: Any, spaced: bool) -> str:
    """JSON text of a value with Pairs and Raw in it."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        value = Pairs(value.items())
    if isinstance(value, Pairs):
        colon = ": " if spaced else ":"
        return (
            "{" + ",".join(f"{json.dumps(name)}{colon}{rendered(item, spaced)}" for name, item in value) + "}"
        )
    if isinstance(value, list):
        return "[" + ",".join(rendered(item, spaced) for item in value) + "]"
    return json.dumps(value)


def deep(chance: Chance) -> Raw:
    depth = chance.choice((3, 50, 900, 1100, 30_000))
    opening, closing = chance.choice((("[", "]"), ('{"a":', "}")))
    return Raw(opening * depth + "1" + closing * depth)


ODD_VALUES: tuple[Any, ...] = (
    None, True, False, "", "4", "F32", -1, -0.0, 0, 1, 2, 3, 4, 5, 7, 8, 0.5, 1.0, 4.0, 1e300, 2**31, 2**32, 2**53,
    2**63 - 1, 2**63, 2**64 - 4, 2**64, 2**65, -(2**63), [], {}, [0], [[0]], [0, 4], [4, 0], {"a": 1}, "\x00", "\x1b[2J",
    Raw("-0"), Raw("00"), Raw("1e2"), Raw("1E400"), Raw("NaN"), Raw("-Infinity"), Raw("0x10"), Raw("1_000"), Raw("+1"),
    Raw('"\\ud800"'), Raw('"\\u0000"'), Raw('"\\x41"'), Raw("9" * 400), Raw("9" * 5000), Raw("'a'"), Raw("/*c*/1"),
)  # fmt: skip


ODD_NAMES = (
    "", " ", "a\nb", "\x1b[31m", "\u202e", "__metadata__", "a/../../b", "n" * 511, "n" * 513, "é", "e\u0301", "\U0001f600",
    "model.layers.0.weight", "\ufeff", "\x00", "..",
)  # fmt: skip


DISGUISES = (
    b"", b"\x00", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12\n",
    b"<!DOCTYPE html><html></html>", b"\n <HTML>", b"<?xml version='1.0'?><Error/>", b"PK\x03\x04" + bytes(60),
    b"\x80\x02}q\x00.", b"GGUF" + bytes(60), b"\x89HDF\r\n\x1a\n" + bytes(60), b"{}", b'{"error":"not found"}',
    struct.pack("<Q", 100_000_000) + b"{}", struct.pack("<Q", 100_000_001), struct.pack("<Q", 2**63) + b"{",
    b"\xff" * 64, struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 8) + b"{}      ", struct.pack("<Q", 0),
)  # fmt: skip


def oddly(chance: Chance, value: Any) -> Any:
    """A value a little or a lot beside the right one."""
    if type(value) is int and chance.random() < 0.5:
        return value + chance.choice((-8, -4, -2, -1, 1, 2, 4, 8))
    return deep(chance) if chance.random() < 0.02 else deepcopy(chance.choice(ODD_VALUES))


def mutated_object(chance: Chance, pairs: Pairs) -> None:
    """Changes one thing in an object, at any depth."""
    if not pairs:
        pairs.append((chance.choice(ODD_NAMES), oddly(chance, 0)))
        return
    at = chance.randrange(len(pairs))
    name, value = pairs[at]
    if isinstance(value, Pairs) and value and chance.random() < 0.7:
        mutated_object(chance, value)
        return
    is_list = isinstance(value, list) and not isinstance(value, Pairs)
    match chance.randrange(8):
        case 0:
            del pairs[at]
        case 1:
            pairs.append((name, value))
        case 2:
            pairs[at] = (chance.choice(ODD_NAMES), value)
        case 3:
            pairs.insert(at, (chance.choice((*ODD_NAMES, name + "2")), oddly(chance, 0)))
        case 4 if is_list and value:
            value[chance.randrange(len(value))] = oddly(chance, value[0])
        case 5 if is_list:
            value.append(oddly(chance, 0)) if chance.random() < 0.5 else value.reverse()
        case _:
            pairs[at] = (name, oddly(chance, value))


def mutated_text(chance: Chance, text: bytes) -> bytes:
    """Changes a few bytes, or a piece, of a text."""
    if not text:
        return text
    at, to = sorted(chance.randrange(len(text) + 1) for _ in range(2))
    to = min(to, at + 40)
    match chance.randrange(7):
        case 0:
            return text[:at] + chance.randbytes(chance.randrange(1, 4)) + text[at + 1 :]
        case 1:
            return text[:at] + text[to:]
        case 2:
            return text[:to] + text[at:]
        case 3:
            return text[:at]
        case 4:
            return (
                text[:at]
                + chance.choice(
                    (b",", b"{", b"}", b"[", b"]", b'"', b"\\", b" ", b"\t", b"\x00", b"\xef\xbb\xbf")
                )
                + text[at:]
            )
        case 5:
            bit = chance.randrange(8 * len(text))
            return text[: bit // 8] + bytes((text[bit // 8] ^ 1 << bit % 8,)) + text[bit // 8 + 1 :]
    return text + chance.choice((b" ", b"\n", b"\x00", b"x", b"{}"))


def sound_header(chance: Chance) -> tuple[Pairs, int]:
    """A header that every reader accepts, its tensors in any order, and the bytes of its data."""
    tensors, position = [], 0
    for number in range(chance.randrange(6)):
        dtype = chance.choice(sorted(DTYPE_BITS))
        shape = [chance.choice((0, 1, 1, 2, 2, 3, 8)) for _ in range(chance.randrange(4))]
        elements = 1
        for size in shape:
            elements *= size
        if elements * DTYPE_BITS[dtype] % 8:
            shape, elements = [8], 8
        end = position + elements * DTYPE_BITS[dtype] // 8
        fields = Pairs([("dtype", dtype), ("shape", shape), ("data_offsets", [position, end])])
        chance.shuffle(fields)
        tensors.append((f"layer.{number}.weight", fields))
        position = end
    chance.shuffle(tensors)
    header = Pairs(tensors)
    if chance.random() < 0.5:
        header.insert(0, ("__metadata__", Pairs([("format", "pt")] if chance.random() < 0.8 else [])))
    return header, position


def many_tensors(chance: Chance) -> bytes:
    """So many that only their number may count."""
    count = chance.choice((2_000, 50_000, 200_001))
    return (
        b"{"
        + b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n for n in range(count))
        + b"}"
    )


def blame_one(chance: Chance, header: Pairs) -> str:
    """Makes one field of one tensor wrong; that tensor's name, or nothing if there is none."""
    for name, fields in header:
        if name != "__metadata__":
            wrong = {"dtype": "F33", "shape": [3, 3, 3, 3], "data_offsets": [7, 3]}
            field = chance.choice(sorted(wrong))
            fields[:] = [(other, wrong[other] if other == field else value) for other, value in fields]
            return name
    return ""


def header_file(chance: Chance, changes: int, is_large: bool = False) -> tuple[bytes, str]:
    """A safetensors file with so many things wrong, and the one tensor that is to blame if it is sure to be one."""
    if changes and chance.random() < 0.03:
        return chance.choice(DISGUISES), ""
    header, size = sound_header(chance)
    ways = [chance.choice(("object", "object", "object", "text", "frame", "data")) for _ in range(changes)]
    blamed = blame_one(chance, header) if ways == ["object"] and chance.random() < 0.3 else ""
    for _ in range(0 if blamed else ways.count("object")):
        mutated_object(chance, header)
    text = many_tensors(chance) if is_large else rendered(header, chance.random() < 0.3).encode()
    for _ in range(ways.count("text")):
        text = mutated_text(chance, text)
    if chance.random() < 0.2:
        text += b" " * (-len(text) % 8)
    data = chance.randbytes(size)
    for _ in range(ways.count("data")):
        data = mutated_text(chance, data) or b"\x00"
    length = len(text)
    for _ in range(ways.count("frame")):
        length = chance.choice(
            (length + chance.randrange(-9, 10), 0, 25_000_001, 100_000_000, 2**32, 2**63, 2**64 - 1)
        )
    return struct.pack("<Q", min(max(0, length), 2**64 - 1)) + text + data, blamed


def index_text(chance: Chance, listed: dict[str, str], changes: int) -> bytes:
    index = Pairs([("metadata", Pairs([("total_size", 8)])), ("weight_map", Pairs(listed.items()))])
    if changes and chance.random() < 0.05:
        return chance.choice(DISGUISES)
    ways = [chance.choice(("object", "shard", "text")) for _ in range(changes)]
    for way in ways:
        if way == "object":
            mutated_object(chance, index)
        for name, value in index:
            if way == "shard" and name == "weight_map" and isinstance(value, Pairs) and value:
                at = chance.randrange(len(value))
                value[at] = (value[at][0], chance.choice(ODD_SHARDS))
    text = rendered(index, chance.random() < 0.3).encode()
    for _ in range(ways.count("text")):
        text = mutated_text(chance, text)
    return text


ODD_SHARDS = (
    "../m-1.safetensors", "/etc/passwd", "/etc/m.safetensors", "sub/m-1.safetensors", "m-1.safetensors/", ".m.safetensors",
    "m-1.SAFETENSORS", "m-1.safetensors\n", "m\x00.safetensors", "C:\\m.safetensors", "m-9.safetensors", "m-1.bin", "", "..",
    "m" * 300 + ".safetensors", None, 1, [], {}, "ｍ-1.safetensors", "link.safetensors", "pipe.safetensors",
    "folder.safetensors",
)  # fmt: skip


def write_model(chance: Chance, directory: Path, changes: int) -> None:
    """A model of one or several files in which some thing may be wrong."""
    shards = chance.randrange(4)
    texts = {
        f"m-{number}.safetensors" if shards else SINGLE: sound_header(chance)
        for number in range(max(1, shards))
    }
    listed = {}
    for number, (file, (header, size)) in enumerate(texts.items()):
        named = Pairs(
            (name if name == "__metadata__" else f"{number}.{name}", fields) for name, fields in header
        )
        listed |= {name: file for name, _ in named if name != "__metadata__"}
        text = rendered(named, False).encode()
        content = struct.pack("<Q", len(text)) + text + chance.randbytes(size)
        if changes and chance.random() < 0.2:
            content = header_file(chance, changes)[0]
        (directory / file).write_bytes(content)
    if shards:
        (directory / INDEX).write_bytes(index_text(chance, listed, changes if chance.random() < 0.4 else 0))
    (directory / "config.json").write_bytes(config_text(chance, changes if chance.random() < 0.3 else 0))
    for _ in range(changes):
        spoil(chance, directory)


def spoil(chance: Chance, directory: Path) -> None:
    """Does something to the directory itself."""
    names = sorted(path.name for path in directory.iterdir())
    victim = directory / chance.choice(names) if names else directory / SINGLE
    match chance.randrange(9):
        case 0 if names and not victim.is_dir():
            victim.unlink()
        case 1 if names and not victim.is_dir():
            victim.unlink()
            victim.symlink_to(chance.choice(("/etc/passwd", "nowhere", "config.json", ".", "/dev/zero")))
        case 2 if names and not victim.is_dir():
            victim.unlink()
            os.mkfifo(victim)
        case 3 if names and not victim.is_dir():
            victim.unlink()
            victim.mkdir()
        case 4 if names and victim.is_file() and not victim.is_symlink():
            os.truncate(victim, chance.choice((0, 7, 8, 9, 1 << 33)))
        case 5:
            (directory / "extra.safetensors").write_bytes(chance.choice(DISGUISES))
        case 6:
            (
                directory / chance.choice(("pytorch_model.bin", "adapter_config.json", "model.gguf"))
            ).write_bytes(b"x")
        case 7 if not (directory / SINGLE).exists() and not (directory / SINGLE).is_symlink():
            (directory / SINGLE).write_bytes(header_file(chance, 0)[0])
        case _:
            (
                directory
                / os.fsdecode(chance.choice((b"odd\xff.safetensors", b"new\nline.json", b"\x1b[2J.txt")))
            ).touch()


CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "id2label": {"0": "a", "1": "b"},
    "eos_token_id": [1, 2],
    "depths": [1, 2],
    "torch_dtype": "float32",
}


ODD_KEYS = (
    "auto_map", "trust_remote_code", "quantization_config", "sparsity_config", "_attn_implementation_internal", "num_experts",
    "num_labels", "label2id", "text_config", "n_layer", "__class__", "num_blocks",
)  # fmt: skip


ODD_SETTINGS: tuple[Any, ...] = (
    10**9, 2**60, -1, True, None, "x", [10**6] * 3, {"a": {"auto_map": "x"}}, {str(number): "x" for number in range(300)},
    {"quant_method": "gptq"}, [[10**9]], {"num_hidden_layers": 10**9}, [{"num_layers": 10**9}], 1e308, Raw("Infinity"),
)  # fmt: skip


def config_text(chance: Chance, changes: int) -> bytes:
    config = Pairs(
        (name, Pairs(value.items()) if isinstance(value, dict) else json.loads(json.dumps(value)))
        for name, value in CONFIG.items()
    )
    if changes and chance.random() < 0.05:
        return chance.choice(DISGUISES)
    ways = [chance.choice(("object", "object", "key", "key", "text")) for _ in range(changes)]
    for way in ways:
        if way == "object":
            mutated_object(chance, config)
        elif way == "key":
            config.append((chance.choice(ODD_KEYS), chance.choice(ODD_SETTINGS)))
    text = rendered(config, chance.random() < 0.3).encode()
    for _ in range(ways.count("text")):
        text = mutated_text(chance, text)
    return text


def keys_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from keys_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from keys_of(item)


def spoil_tree(chance: Chance, root: Path) -> None:
    """Something odd beside the versions."""
    match chance.randrange(7):
        case 0:
            (root / f"file-{chance.random()}").write_bytes(b"x")
        case 1:
            (root / f"link-{chance.random()}").symlink_to(chance.choice(("/", "/etc", "nowhere", ".")))
        case 2:
            (root / f"empty-{chance.random()}" / "1").mkdir(parents=True)
        case 3:
            odd = root / os.fsdecode(
                chance.choice((b"odd\xff", b"new\nline", b" space ", b"\x1b[2J", b"x" * 255))
            )
            (odd / "1").mkdir(parents=True, exist_ok=True)
            (odd / "1" / "config.json").write_bytes(config_text(chance, 0))
        case 4:
            os.mkfifo(root / f"pipe-{chance.random()}")
        case 5:
            deepest = root.joinpath(*"abcdefghijklmnop")
            deepest.mkdir(parents=True, exist_ok=True)
            (deepest / "config.json").touch()
        case _:
            (root / ".hidden" / "1").mkdir(parents=True, exist_ok=True)

"""Headers, indexes, configs and whole registries from a stranger who means it, with the safetensors library as the oracle.

Each round runs in a process of its own that may take 512 MiB more than it began with. `python
tests/scenarios/test_header_fuzz.py SEED COUNT` runs one by hand; `SEED FIRST-LAST` runs some inputs of it again.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError, deserialize

from orchestrator.domain import ModelVersion
from orchestrator.registries.directory import DirectoryRegistry
from tasks.configs import read_config
from tasks.contract import BadInput
from tasks.headers import (
    DTYPE_BITS,
    INDEX,
    SINGLE,
    Layout,
    check_header,
    check_index,
    read_header,
    read_layout,
)

MEMORY = 512 << 20
SECONDS = 5.0

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


# --- safetensors files ---------------------------------------------------------------------------------------------


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


def judge_header(chance: Chance, directory: Path) -> tuple[bool, Problems]:
    is_large = chance.random() < 0.0003
    content, blamed = header_file(chance, 0 if is_large else chance.randrange(5), is_large)
    if chance.random() < 0.05:
        (directory / SINGLE).write_bytes(content)
        return judged(
            lambda: read_header(directory / SINGLE).entries,
            {SINGLE},
            blamed,
            lambda ours: as_upstream(content, ours),
        )
    return judged(
        lambda: check_header(content, len(content), SINGLE),
        {SINGLE},
        blamed,
        lambda ours: as_upstream(content, ours),
    )


def as_upstream(content: bytes, ours: Any) -> Problems:
    """How our reading differs from the library's."""
    try:
        with unlimited():
            theirs = {
                n: (info["dtype"], tuple(info["shape"]), bytes(info["data"]))
                for n, info in deserialize(content)
            }
    except SafetensorError as error:
        return [f"accepted, and the library refuses: {error}"]
    mine = {
        name: (entry.dtype, entry.shape, content[entry.begin : entry.end]) for name, entry in ours.items()
    }
    return [] if mine == theirs else ["read otherwise than by the library"]


# --- indexes, directories, configs ---------------------------------------------------------------------------------


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


def judge_index(chance: Chance, directory: Path) -> tuple[bool, Problems]:
    listed = {f"t{number}": f"m-{number % 2}.safetensors" for number in range(chance.randrange(5))}
    text = index_text(chance, listed, chance.randrange(4))

    def check(found: Any) -> Problems:
        names, total = found
        right = names == json.loads(text)["weight_map"] and (total is None or type(total) is int)
        plain = all(Path(shard).name == shard and shard.endswith(".safetensors") for shard in names.values())
        return [] if right and plain else ["read otherwise than by json, or a shard has no plain name"]

    return judged(lambda: check_index(text), {INDEX}, "", check)


def judge_layout(chance: Chance, directory: Path) -> tuple[bool, Problems]:
    write_model(chance, directory, chance.randrange(3))

    def check(layout: Layout) -> Problems:
        found = [line for file in layout.files for line in as_upstream(file.path.read_bytes(), file.entries)]
        strange = [
            file.path for file in layout.files if file.path.is_symlink() or file.path.parent != directory
        ]
        return found + [f"{path} is a link or elsewhere" for path in strange]

    return judged(lambda: read_layout(directory), None, "", check)


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


def judge_config(chance: Chance, directory: Path) -> tuple[bool, Problems]:
    (directory / "config.json").write_bytes(config_text(chance, chance.randrange(4)))

    def check(config: Any) -> Problems:
        return [
            f"{key} was let through"
            for key in keys_of(config.values)
            if key in ("auto_map", "trust_remote_code")
        ]

    return judged(lambda: read_config(directory, 20), {"config.json"}, "", check)


def keys_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from keys_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from keys_of(item)


# --- registries ----------------------------------------------------------------------------------------------------


def judge_registry(chance: Chance, directory: Path) -> tuple[bool, Problems]:
    """A registry of a few versions, some of them spoilt: every one is named once, and scanning never raises."""
    expected = set()
    for number in range(chance.randrange(1, 6)):
        name = chance.choice(
            (f"model-{number}", f"team/model-{number}", f"näme {number}", f"deep/a/b/c/model-{number}")
        )
        version = directory / name / chance.choice(("1", "v2", "main"))
        version.mkdir(parents=True)
        write_model(chance, version, chance.choice((0, 1, 2)))
        if any(is_model_file(path) for path in version.iterdir()):
            expected.add(str(version.relative_to(directory)))
    for _ in range(chance.randrange(3)):
        spoil_tree(chance, directory)
    try:
        found = list(DirectoryRegistry("zoo", directory).scan())
    except Exception as error:
        return False, [f"scan raised {type(error).__name__}: {error}"]
    named = Counter(f"{model.name}/{model.version}" for model in found)
    problems = [f"{name} is not named" for name in expected if named[name] == 0]
    problems += [f"{name} is named {count} times" for name, count in named.items() if count > 1]
    problems += [line for model in found for line in wrong_about(model)]
    return any(not model.problem for model in found), problems


def is_model_file(path: Path) -> bool:
    return path.name in (SINGLE, "config.json") and (path.is_symlink() or not path.is_dir())


def wrong_about(model: ModelVersion) -> Problems:
    if model.problem:
        told = (
            []
            if model.problem.isprintable() and len(model.problem) < 2000
            else [f"{model.id}: {model.problem!r}"]
        )
        return told + ([f"{model.id} is broken and has a digest"] if model.digest else [])
    if len(model.digest) != 64:
        return [f"{model.id} is sound and has no digest"]
    try:
        files = read_layout(Path(model.uri)).files
    except BadInput as error:
        return [f"{model.id} is sound, and cannot be read: {error}"]
    return [line for file in files for line in as_upstream(file.path.read_bytes(), file.entries)]


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


# --- one round -----------------------------------------------------------------------------------------------------


def judged(
    act: Callable[[], Any], files: set[str] | None, blamed: str, check: Callable[[Any], Problems]
) -> tuple[bool, Problems]:
    """Whether it was accepted, and what is wrong with the acceptance or the refusal."""
    try:
        found = act()
    except BadInput as error:
        return False, wrong_with(error, files, blamed)
    return True, check(found) + ([f"{blamed} is wrong and was accepted"] if blamed else [])


def wrong_with(error: BadInput, files: set[str] | None, blamed: str) -> Problems:
    lines = []
    if not error.file or (files is not None and error.file not in files):
        lines.append(f"names the file {error.file!r}")
    if not error.why or not error.do:
        lines.append("says no reason or no remedy")
    if blamed and error.tensor != blamed:
        lines.append(f"blames {error.tensor!r} and not {blamed!r}")
    if not str(error).isprintable() or len(str(error)) > 3000:
        lines.append("cannot be printed on a line")
    return [f"{line}: {str(error)[:300]!a}" for line in lines]


KINDS = {
    "header": judge_header,
    "index": judge_index,
    "config": judge_config,
    "layout": judge_layout,
    "registry": judge_registry,
}
SHARES = {"header": 80, "index": 8, "config": 8, "layout": 3, "registry": 1}


def one(seed: int, number: int, home: Path) -> tuple[str, bool, Problems]:
    """One input, from its number alone."""
    chance = random.Random(f"{seed} {number}")
    kind = chance.choices(list(SHARES), list(SHARES.values()))[0]
    directory = home / "input"
    directory.mkdir()
    try:
        with alarm(SECONDS):
            is_accepted, problems = KINDS[kind](chance, directory)
    except Exception as error:  # the very thing that must not happen, whatever it is
        is_accepted, problems = False, [f"raised {type(error).__name__}: {str(error)[:300]!a}"]
    finally:
        shutil.rmtree(directory)
    return kind, is_accepted, problems


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Ends what computes for so long, or waits for twelve times as long: the machine may have other work."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    timers = (
        (signal.ITIMER_PROF, signal.SIGPROF, seconds),
        (signal.ITIMER_REAL, signal.SIGALRM, 12 * seconds),
    )
    for timer, number, limit in timers:
        signal.signal(number, late)
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for timer, _, _ in timers:
            signal.setitimer(timer, 0)


library_seconds = 0.0


@contextmanager
def unlimited() -> Iterator[None]:
    """The library may take what it likes: where it gets no memory it aborts the process."""
    global library_seconds
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    left, began = signal.setitimer(signal.ITIMER_PROF, 0)[0], time.process_time()
    try:
        yield
    finally:
        library_seconds += time.process_time() - began
        signal.setitimer(signal.ITIMER_PROF, left)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def run_round(seed: int, numbers: range) -> dict[str, Any]:
    """Judges these inputs within the limit of memory."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
    accepted, refused, slowest, problems = Counter[str](), Counter[str](), (0.0, -1), []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as home:
        for number in numbers:
            began = time.process_time() - library_seconds
            kind, is_accepted, found = one(seed, number, Path(home))
            slowest = max(slowest, (time.process_time() - library_seconds - began, number))
            (accepted if is_accepted else refused)[kind] += 1
            problems += [f"input {number} ({kind}): {line}" for line in found]
    return {"accepted": accepted, "refused": refused, "slowest": slowest, "problems": problems[:20]}


def in_a_process(seed: int, count: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, str(seed), str(count)], capture_output=True, text=True, timeout=3000
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def check_round(told: dict[str, Any], count: int) -> None:
    assert told["problems"] == []
    assert sum(told["accepted"].values()) + sum(told["refused"].values()) == count
    for kind in KINDS:
        assert told["accepted"].get(kind, 0) > 0, f"no {kind} was accepted"
        assert told["refused"].get(kind, 0) > 0, f"no {kind} was refused"
    assert told["slowest"][0] < SECONDS


def test_thousands_of_hostile_inputs_are_refused_or_read_as_the_library_reads_them() -> None:
    check_round(in_a_process(1, 4000), 4000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_hostile_inputs() -> None:
    began, told = time.monotonic(), in_a_process(2, 100_000)
    print(f"\n100000 inputs in {time.monotonic() - began:.0f} s; {told}")
    check_round(told, 100_000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_configs_that_lie_give_a_refusal_or_an_empty_module(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """transformers computes with whatever a config says; nothing of that may end otherwise, or take long."""
    from tasks.models import build_on_meta

    architectures = (
        "LlamaForCausalLM",
        "GPT2LMHeadModel",
        "BertForSequenceClassification",
        "ViTForImageClassification",
    )
    sound = {}
    for name in (*architectures, "ResNetForImageClassification", "MLPForClassification"):
        tiny_model(tmp_path / name, name)
        sound[name] = json.loads((tmp_path / name / "config.json").read_text())
        build_on_meta(tmp_path / name)
    ended = Counter[str]()
    for number in range(1500):
        chance = random.Random(number)
        name = chance.choice(sorted(sound))
        config = dict(sound[name])
        for _ in range(chance.randrange(1, 3)):
            config[chance.choice([*config, *ODD_KEYS])] = chance.choice(
                (*ODD_VALUES, *ODD_SETTINGS, 3, 10**5, "gelu")
            )
        (tmp_path / name / "config.json").write_text(rendered(config, False))
        with alarm(SECONDS):
            is_built, problems = judged(partial(build_on_meta, tmp_path / name), None, "", lambda _: [])
        assert problems == [], number
        ended["built" if is_built else "refused"] += 1
    assert min(ended["built"], ended["refused"]) > 100, ended


if __name__ == "__main__":
    first, _, last = sys.argv[2].rpartition("-")
    json.dump(run_round(int(sys.argv[1]), range(int(first or 0), int(last))), sys.stdout)

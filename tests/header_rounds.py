"""One round of hostile inputs, each judged with the safetensors library as the oracle.

A round runs in a process of its own that may take 512 MiB more than it began with. `python tests/header_rounds.py SEED
COUNT` runs one by hand; `SEED FIRST-LAST` runs some inputs of it again.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cases.hostile_models import (
    Chance,
    Problems,
    config_text,
    header_file,
    index_text,
    keys_of,
    spoil_tree,
    write_model,
)
from safetensors import SafetensorError, deserialize

from orchestrator.domain import ModelVersion
from orchestrator.registries.directory import DirectoryRegistry
from tasks.contract import BadInput
from tasks.files.configs import read_config
from tasks.files.headers import check_header, read_header
from tasks.files.layouts import INDEX, SINGLE, Layout, check_index, read_layout

MEMORY = 512 << 20


SECONDS = 5.0


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


def judge_config(chance: Chance, directory: Path) -> tuple[bool, Problems]:
    (directory / "config.json").write_bytes(config_text(chance, chance.randrange(4)))

    def check(config: Any) -> Problems:
        return [
            f"{key} was let through"
            for key in keys_of(config.values)
            if key in ("auto_map", "trust_remote_code")
        ]

    return judged(lambda: read_config(directory, 20), {"config.json"}, "", check)


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


if __name__ == "__main__":
    first, _, last = sys.argv[2].rpartition("-")
    json.dump(run_round(int(sys.argv[1]), range(int(first or 0), int(last))), sys.stdout)

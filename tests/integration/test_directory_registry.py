"""A directory of models as found on disks: nested, hostile, changing while it is read, and read only once."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.domain import ModelVersion
from orchestrator.errors import BrokenInvariant, ModelChanged, RegistryError
from orchestrator.registries import tree
from orchestrator.registries.directory import DirectoryRegistry
from orchestrator.registries.memory import DigestMemory, dump_memory, load_memory

CONFIG = json.dumps({"architectures": ["TinyForCausalLM"]}).encode()


def weights(size: int = 4) -> bytes:
    text = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


def make(directory: Path, size: int = 4) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_bytes(CONFIG)
    (directory / "model.safetensors").write_bytes(weights(size))
    return directory


def scan(root: Path, memory: DigestMemory | None = None) -> list[ModelVersion]:
    return list(DirectoryRegistry("zoo", root, memory).scan())


def ids(root: Path) -> list[str]:
    return [f"{model.name}@{model.version}" for model in scan(root)]


def problems(root: Path) -> dict[str, str]:
    return {f"{model.name}@{model.version}": model.problem for model in scan(root) if model.problem}


class Openings:
    """Names of the files that this process opened while `watching`, told by the interpreter itself."""

    def __init__(self) -> None:
        self.watching = False
        self.names: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.watching and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            self.names.append(os.path.basename(os.fsdecode(arguments[0])))


OPENINGS = Openings()


@pytest.fixture
def openings() -> Iterator[list[str]]:
    OPENINGS.names.clear()
    OPENINGS.watching = True
    yield OPENINGS.names
    OPENINGS.watching = False


# Where versions lie


def test_a_directory_with_a_model_is_its_only_version(tmp_path):
    make(tmp_path / "lm")
    assert ids(tmp_path) == ["lm@main"]


def test_the_last_directory_is_the_version_and_those_before_it_the_name(tmp_path):
    make(tmp_path / "lm" / "v1")
    make(tmp_path / "org" / "team" / "lm" / "v2")
    assert ids(tmp_path) == ["lm@v1", "org/team/lm@v2"]


def test_a_model_may_have_further_versions_in_directories_of_its_own(tmp_path):
    make(tmp_path / "lm")
    make(tmp_path / "lm" / "v2")
    (tmp_path / "lm" / "onnx").mkdir()
    (tmp_path / "lm" / "empty" / "deeper").mkdir(parents=True)
    assert ids(tmp_path) == ["lm@main", "lm@v2"]


def test_two_directories_that_would_be_the_same_version_are_told_apart(tmp_path):
    make(tmp_path / "lm", 4)
    make(tmp_path / "lm" / "main", 8)
    outer, inner = scan(tmp_path)
    assert outer.problem == ""
    assert "already the version main" in inner.problem
    (tmp_path / "into").mkdir()
    DirectoryRegistry("zoo", tmp_path).fetch(outer, tmp_path / "into")


def test_a_version_that_is_called_main_can_be_fetched(tmp_path):
    make(tmp_path / "zoo" / "lm" / "main")
    (model,) = scan(tmp_path / "zoo")
    (tmp_path / "into").mkdir()
    DirectoryRegistry("zoo", tmp_path / "zoo").fetch(model, tmp_path / "into")
    assert (tmp_path / "into" / "config.json").read_bytes() == CONFIG


def test_directories_without_models_and_loose_files_are_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("nothing")
    (tmp_path / "README.md").write_text("nothing")
    (tmp_path / "LICENSES").mkdir()
    assert ids(tmp_path) == []


def test_a_directory_may_be_named_like_a_file_of_a_model(tmp_path):
    make(tmp_path / "resnet.onnx" / "v1")
    make(tmp_path / "config.json" / "v1")
    assert ids(tmp_path) == ["config.json@v1", "resnet.onnx@v1"]


def test_a_registry_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RegistryError, match="nowhere"):
        scan(tmp_path / "nowhere")


def test_a_registry_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RegistryError, match="file"):
        scan(tmp_path / "file")


def test_a_registry_that_is_itself_a_model_is_refused_with_the_way_out(tmp_path):
    make(tmp_path)
    with pytest.raises(RegistryError, match="name the directory above it"):
        scan(tmp_path)


def test_the_registry_itself_may_be_a_link_because_the_operator_named_it(tmp_path):
    make(tmp_path / "real" / "lm" / "v1")
    (tmp_path / "link").symlink_to("real")
    assert ids(tmp_path / "link") == ["lm@v1"]


# Hostile and broken places


def test_links_are_reported_and_never_followed(tmp_path, openings):
    outside = make(tmp_path / "outside" / "secret")
    root = tmp_path / "zoo"
    make(root / "lm" / "v1")
    (root / "lm" / "latest").symlink_to("v1")
    (root / "away").symlink_to(outside)
    (root / "loop").symlink_to("loop")
    (root / "up").symlink_to("..")
    (root / "dangling").symlink_to("nowhere")
    (root / ".hidden-link").symlink_to("lm")
    openings.clear()
    assert ids(root) == ["away@main", "dangling@main", "lm@latest", "lm@v1", "loop@main", "up@main"]
    assert set(problems(root)) == {"away@main", "dangling@main", "lm@latest", "loop@main", "up@main"}
    assert all("symbolic link" in problem for problem in problems(root).values())
    assert openings.count("model.safetensors") == 6, (
        "three scans read the header and the file of the one real model"
    )


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_that_is_a_link_is_refused_by_name(tmp_path, name):
    make(tmp_path / "lm" / "v1")
    (tmp_path / "secret").write_bytes(weights())
    (tmp_path / "lm" / "v1" / name).unlink(missing_ok=True)
    (tmp_path / "lm" / "v1" / name).symlink_to(tmp_path / "secret")
    problem = problems(tmp_path)["lm@v1"]
    assert name in problem
    assert "cp -L" in problem


def special(kind: str, path: Path) -> None:
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "socket":
            holder = os.getcwd()
            os.chdir(path.parent)  # a socket's path must be short
            try:
                with socket.socket(socket.AF_UNIX) as listener:
                    listener.bind(path.name)
            finally:
                os.chdir(holder)
        case "character device":
            os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))
        case "block device":
            os.mknod(path, 0o600 | 0o060000, os.makedev(7, 250))


@pytest.mark.parametrize("kind", ["pipe", "socket", "character device", "block device"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_what_is_not_a_file_is_named_and_never_opened(tmp_path, openings, kind, name):
    make(tmp_path / "lm" / "v1")
    (tmp_path / "lm" / "v1" / name).unlink(missing_ok=True)
    try:
        special(kind, tmp_path / "lm" / "v1" / name)
    except PermissionError:
        pytest.skip(f"this machine does not let us make a {kind}")
    openings.clear()
    problem = problems(tmp_path)["lm@v1"]
    assert name in problem
    assert kind in problem
    assert name not in openings


def test_a_directory_in_the_place_of_the_weights_is_named(tmp_path):
    make(tmp_path / "lm" / "v1")
    (tmp_path / "lm" / "v1" / "model.safetensors").unlink()
    (tmp_path / "lm" / "v1" / "model.safetensors").mkdir()
    assert "model.safetensors" in problems(tmp_path)["lm@v1"]


HOSTILE = [
    "new\nline",
    "\x1b[2J\x1b[31mred",
    "tab\t",
    "\u202etxt.exe",
    "zero\u200bwidth",
    " leading",
    "trailing ",
    "back\\slash",
    "%2e%2e",
    "\uff0e\uff0e",
    "a%2fb",
    "\udcff\udcfe",
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("where", ["model", "group", "version"])
def test_a_hostile_name_is_refused_and_shown_safely(tmp_path, name, where):
    place = {"model": tmp_path / name, "group": tmp_path / name / "v1", "version": tmp_path / "lm" / name}[
        where
    ]
    make(place)
    make(tmp_path / "good" / "v1")
    found = scan(tmp_path)
    assert len(found) == 2
    bad = next(model for model in found if model.problem)
    assert "name cannot be used" in bad.problem
    for text in (bad.name, bad.version, bad.uri, bad.problem, bad.id):
        assert text.isprintable()
        text.encode("utf-8")
    assert bad.digest == ""


def test_a_hostile_file_name_is_refused_and_shown_safely(tmp_path):
    make(tmp_path / "lm" / "v1")
    (tmp_path / "lm" / "v1" / "tokenizer\x1b[2J.json").write_text("{}")
    problem = problems(tmp_path)["lm@v1"]
    assert r"tokenizer\x1b[2J.json" in problem.replace("\\\\", "\\")
    assert problem.isprintable()


def test_names_nested_to_four_kibibytes_are_refused_and_short_when_shown(tmp_path):
    holder = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(20):
            os.mkdir("x" * 200)
            os.chdir("x" * 200)
        make(Path("v1"))
    finally:
        os.chdir(holder)
    (found,) = scan(tmp_path)
    assert "longer than 512 bytes" in found.problem
    assert max(map(len, (found.name, found.version, found.uri))) <= 200
    shutil.rmtree(tmp_path / ("x" * 200))


def test_what_lies_very_deep_is_reported_once(tmp_path):
    make(tmp_path.joinpath(*"abcdefghijklmnopqrstuvwxyz"))
    (found,) = scan(tmp_path)
    assert "directories deep" in found.problem


def test_hidden_directories_are_ignored_unless_they_hold_a_model(tmp_path):
    (tmp_path / ".git" / "objects").mkdir(parents=True)
    make(tmp_path / ".cache" / "lm" / "v1")
    make(tmp_path / ".staging")
    make(tmp_path / "lm" / ".v1")
    make(tmp_path / ".prunefleet-1234")
    assert ids(tmp_path) == [".staging@main", "lm@.v1"]
    assert all("begins with a dot" in problem for problem in problems(tmp_path).values())


def test_names_that_differ_in_case_are_two_models(tmp_path):
    make(tmp_path / "LM" / "v1", 4)
    if (tmp_path / "lm").exists():
        pytest.skip("this file system ignores case")
    make(tmp_path / "lm" / "v1", 8)
    assert ids(tmp_path) == ["LM@v1", "lm@v1"]
    assert problems(tmp_path) == {}
    assert len({model.digest for model in scan(tmp_path)}) == 2


def test_a_directory_of_too_many_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tree, "MAX_FILES", 50)
    make(tmp_path / "lm" / "v1")
    for number in range(60):
        (tmp_path / "lm" / "v1" / f"{number}.tmp").touch()
    make(tmp_path / "good" / "v1")
    assert list(problems(tmp_path)) == ["lm@v1"]
    assert "more than 50 files" in problems(tmp_path)["lm@v1"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody whom permissions bind")
def test_what_may_not_be_read_is_reported_and_the_rest_goes_on():
    script = """
import os, sys
from pathlib import Path
from orchestrator.registries.directory import DirectoryRegistry
os.setgid(65534); os.setuid(65534)
for model in DirectoryRegistry("zoo", Path(sys.argv[1])).scan():
    print(f"{model.name}@{model.version}: {model.problem}")
"""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        for model in ("closed", "locked-file", "open"):
            make(root / model / "v1")
        (root / "closed").chmod(0o700)
        (root / "locked-file" / "v1" / "model.safetensors").chmod(0o600)
        (root / "lost+found").mkdir(0o700)
        repository = Path(__file__).parents[2]
        outcome = subprocess.run(
            [sys.executable, "-c", script, name], capture_output=True, text=True, cwd=repository, check=True
        )
    closed, locked, open_one = outcome.stdout.splitlines()
    assert closed.startswith("closed@main: it cannot be opened: Permission denied")
    assert "model.safetensors" in locked
    assert "Permission denied" in locked
    assert open_one == "open@v1: "


# Changes while it is read


def test_a_file_that_changes_while_it_is_hashed_is_reported_and_not_believed(tmp_path):
    make(tmp_path / "lm" / "v1")
    path = tmp_path / "lm" / "v1" / "model.safetensors"
    stop = threading.Event()

    def keep_writing() -> None:
        size = 4
        while not stop.is_set():
            size = size % 1000 + 1
            path.write_bytes(weights(size))

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        found = [model for _ in range(200) for model in scan(tmp_path)]
    finally:
        stop.set()
        writer.join()
    assert len(found) == 200
    assert all(model.problem or model.digest for model in found)
    (settled,) = scan(tmp_path)
    assert settled.problem == ""


def test_versions_that_appear_vanish_and_turn_into_links_do_not_crash_a_scan(tmp_path):
    root, outside = tmp_path / "zoo", make(tmp_path / "outside" / "secret", 999)
    for number in range(20):
        make(root / f"m{number}" / "v1")
    stop = threading.Event()

    def disturb() -> None:
        number = 0
        while not stop.is_set():
            number = (number + 1) % 20
            place = root / f"m{number}"
            shutil.rmtree(place)
            place.symlink_to(outside.parent)
            place.unlink()
            make(place / "v1")

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        found = [model for _ in range(60) for model in scan(root)]
    finally:
        stop.set()
        disturber.join()
    assert len(found) > 60
    assert all(model.problem or (model.digest and model.parameters == 4) for model in found)
    assert not [model for model in found if model.parameters == 999]


def test_a_fetch_beside_a_writer_gives_what_was_planned_or_says_that_it_changed(tmp_path):
    root = tmp_path / "zoo"
    make(root / "lm" / "v1", 100_000)
    (planned,) = scan(root)
    path, good = root / "lm" / "v1" / "model.safetensors", weights(100_000)
    stop = threading.Event()

    def keep_writing() -> None:
        while not stop.is_set():
            os.truncate(path, 50_000)
            path.write_bytes(b"\1" * 200_000)
            path.unlink()
            path.symlink_to("/etc/passwd")
            path.unlink()
            path.write_bytes(good)

    writer = threading.Thread(target=keep_writing)
    writer.start()
    outcomes = {"fetched": 0, "changed": 0}
    try:
        for number in range(150):
            into = tmp_path / f"into{number}"
            into.mkdir()
            try:
                DirectoryRegistry("zoo", root).fetch(planned, into)
            except ModelChanged:
                outcomes["changed"] += 1
            else:
                outcomes["fetched"] += 1
                assert (into / "model.safetensors").read_bytes() == good
    finally:
        stop.set()
        writer.join()
    assert sum(outcomes.values()) == 150
    assert outcomes["changed"] > 0


def test_a_version_swapped_for_a_link_to_equal_bytes_is_still_refused(tmp_path):
    root = tmp_path / "zoo"
    make(root / "lm" / "v1")
    (planned,) = scan(root)
    shutil.move(root / "lm", tmp_path / "moved")
    (root / "lm").symlink_to(tmp_path / "moved")
    (tmp_path / "into").mkdir()
    with pytest.raises(ModelChanged):
        DirectoryRegistry("zoo", root).fetch(planned, tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []


def test_a_registry_that_is_gone_is_not_a_model_that_changed(tmp_path):
    root = tmp_path / "zoo"
    make(root / "lm" / "v1")
    (planned,) = scan(root)
    shutil.move(root, tmp_path / "elsewhere")
    (tmp_path / "into").mkdir()
    with pytest.raises(RegistryError) as caught:
        DirectoryRegistry("zoo", root).fetch(planned, tmp_path / "into")
    assert not isinstance(caught.value, ModelChanged)


def test_fetch_wants_an_empty_directory(tmp_path):
    make(tmp_path / "zoo" / "lm" / "v1")
    (planned,) = scan(tmp_path / "zoo")
    make(tmp_path / "into")
    with pytest.raises(BrokenInvariant, match="not empty"):
        DirectoryRegistry("zoo", tmp_path / "zoo").fetch(planned, tmp_path / "into")


def test_a_scan_that_is_given_up_leaves_nothing_open(tmp_path):
    for number in range(100):
        make(tmp_path / f"m{number}" / "v1")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        scanning = DirectoryRegistry("zoo", tmp_path).scan()
        next(scanning)
        scanning.close()
    assert len(os.listdir("/proc/self/fd")) <= before + 3


# What is read, and what is not


def later(root: Path) -> float:
    """A moment at which nothing in the registry counts as just written."""
    return max(path.stat().st_ctime for path in root.rglob("*")) + 60


def night(root: Path, stored: bytes | None, at: float) -> tuple[list[ModelVersion], bytes]:
    memory, problem = load_memory(stored, at)
    assert problem == ""
    return scan(root, memory), dump_memory(memory)


def test_a_quiet_night_opens_no_file_at_all(tmp_path, openings):
    for number in range(20):
        make(tmp_path / f"m{number}" / "v1")
    openings.clear()
    first, stored = night(tmp_path, None, later(tmp_path))
    assert openings.count("model.safetensors") == 40, "each once for its header and once for its digest"
    openings.clear()
    second, again = night(tmp_path, stored, later(tmp_path) + 86_400)
    assert second == first
    assert again == stored
    assert [name for name in openings if "." in name] == []


def test_only_what_changed_is_read(tmp_path, openings):
    for number in range(5):
        make(tmp_path / f"m{number}" / "v1")
    _, stored = night(tmp_path, None, later(tmp_path))
    make(tmp_path / "m3" / "v1", 8)
    make(tmp_path / "new" / "v1")
    openings.clear()
    found, _ = night(tmp_path, stored, later(tmp_path))
    assert openings.count("model.safetensors") == 4
    assert [model.parameters for model in found] == [4, 4, 4, 8, 4, 4]


def test_of_a_changed_version_only_the_changed_file_is_hashed(tmp_path, openings):
    make(tmp_path / "lm" / "v1")
    _, stored = night(tmp_path, None, later(tmp_path))
    (tmp_path / "lm" / "v1" / "config.json").write_text('{"architectures": ["New"]}')
    openings.clear()
    (found,), _ = night(tmp_path, stored, later(tmp_path))
    assert found.architecture == "New"
    assert openings.count("model.safetensors") == 1, "its header only"
    assert found.digest == scan(tmp_path)[0].digest


def test_a_rewrite_with_the_same_size_and_time_is_noticed(tmp_path):
    directory = make(tmp_path / "lm" / "v1")
    (first,), stored = night(tmp_path, None, later(tmp_path))
    path = directory / "model.safetensors"
    times = path.stat()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"\1")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    (second,), _ = night(tmp_path, stored, later(tmp_path))
    assert second.digest != first.digest


def test_a_file_replaced_by_another_of_the_same_size_and_time_is_noticed(tmp_path):
    directory = make(tmp_path / "lm" / "v1")
    path = directory / "model.safetensors"
    os.utime(path, (1, 1))
    (first,), stored = night(tmp_path, None, later(tmp_path))
    other = directory / "other"
    other.write_bytes(path.read_bytes()[:-1] + b"\1")
    os.utime(other, (1, 1))
    other.rename(path)
    (second,), _ = night(tmp_path, stored, later(tmp_path))
    assert second.digest != first.digest


def test_what_was_written_just_now_is_read_again_the_next_time(tmp_path, openings):
    make(tmp_path / "lm" / "v1")
    _, stored = night(tmp_path, None, later(tmp_path) - 60)
    openings.clear()
    night(tmp_path, stored, later(tmp_path))
    assert openings.count("model.safetensors") == 2


def test_a_broken_version_is_looked_at_every_night(tmp_path):
    make(tmp_path / "lm" / "v1")
    (tmp_path / "lm" / "v1" / "model.safetensors").write_bytes(b"")
    found, stored = night(tmp_path, None, later(tmp_path))
    assert found[0].problem
    found, _ = night(tmp_path, stored, later(tmp_path))
    assert found[0].problem


def test_a_shard_that_vanishes_is_noticed_although_the_rest_is_remembered(tmp_path):
    directory = make(tmp_path / "lm" / "v1")
    (directory / "model.safetensors").rename(directory / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    found, stored = night(tmp_path, None, later(tmp_path))
    assert found[0].problem == ""
    (directory / "model-00001-of-00001.safetensors").unlink()
    found, _ = night(tmp_path, stored, later(tmp_path))
    assert "not there" in found[0].problem

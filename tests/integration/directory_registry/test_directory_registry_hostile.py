"""A hostile directory of models: links, pipes, names and depths."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest
from cases.model_directories import ids, make, problems, scan, weights


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

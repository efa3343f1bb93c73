"""Artifacts become versions of a registry, whole or not at all, and never outside the registry."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from cases.publications import FILES, HOSTILE, make, move, names, source, weights

from orchestrator.artifacts import artifact_key
from orchestrator.errors import Damaged, NotFound, NotPermitted, RegistryError
from orchestrator.registries.directory import DirectoryRegistry
from orchestrator.registries.directory_outlet import DirectoryOutlet


def test_an_artifact_becomes_a_version_of_its_model(store, target, artifact, tmp_path):
    publication = make(store, target, artifact)
    assert publication.version == f"v2-half-{artifact[:12]}"
    assert publication.is_new
    place = tmp_path / "out" / "org" / "lm" / publication.version
    assert {path.name: path.read_bytes() for path in place.iterdir()} == {**FILES, "prunefleet.json": b"0"}


def test_the_registry_finds_it_sound_and_knows_that_prunefleet_made_it(store, target, artifact):
    publication = make(store, target, artifact)
    move(store, target, publication)
    (found,) = DirectoryRegistry("out", target.root).scan()
    assert found.id == f"out/org/lm@{publication.version}"
    assert found.problem == ""
    assert found.digest == artifact
    assert dict(found.tags) == {"prunefleet": "artifact"}


def test_it_may_be_published_beside_its_source(store, artifact, tmp_path):
    zoo = tmp_path / "zoo"
    (zoo / "lm").mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (zoo / "lm" / name).write_bytes(FILES[name])
    target = DirectoryOutlet("zoo", zoo)
    (dense,) = DirectoryRegistry("zoo", zoo).scan()
    publication = make(store, target, artifact, model=dense)
    assert [(found.version, bool(found.tags)) for found in DirectoryRegistry("zoo", zoo).scan()] == [
        ("main", False),
        (publication.version, True),
    ]


def test_publishing_again_changes_nothing(store, target, artifact, tmp_path):
    first = make(store, target, artifact)
    place = tmp_path / "out" / "org" / "lm"
    before = {path: path.stat() for path in place.rglob("*") if path.is_file()}
    second = make(store, target, artifact)
    assert second == replace(first, is_new=False)
    after = {path: path.stat() for path in place.rglob("*") if path.is_file()}
    assert {path: status.st_mtime_ns for path, status in before.items()} == {
        path: status.st_mtime_ns for path, status in after.items()
    }


@pytest.mark.parametrize("harm", ["flipped", "missing", "added", "link"])
def test_a_published_version_that_was_changed_is_named_and_not_touched(
    store, target, artifact, tmp_path, harm
):
    publication = make(store, target, artifact)
    place = tmp_path / "out" / "org" / "lm" / publication.version
    match harm:
        case "flipped":
            (place / "config.json").write_bytes(b"{ }")
        case "missing":
            (place / "config.json").unlink()
        case "added":
            (place / "extra.txt").write_bytes(b"")
        case "link":
            (place / "config.json").unlink()
            (place / "config.json").symlink_to("/etc/passwd")
    with pytest.raises(Damaged, match="Remove that version"):
        make(store, target, artifact)


def test_a_damaged_artifact_is_not_published(store, target, artifact, tmp_path):
    store.put(artifact_key(artifact, "model.safetensors"), weights()[:-1] + b"\1")
    with pytest.raises(Damaged, match="model.safetensors"):
        make(store, target, artifact)
    assert names(tmp_path / "out" / "org" / "lm") == set()


def test_an_artifact_that_is_not_there_is_not_published(store, target, tmp_path):
    with pytest.raises(NotFound):
        make(store, target, "0" * 64)
    assert not (tmp_path / "out").exists()


def test_eight_publishers_at_once_make_one_version(store, target, artifact, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: make(store, target, artifact), range(8)))
    assert sum(publication.is_new for publication in made) == 1
    assert names(tmp_path / "out" / "org" / "lm") == {made[0].version}


KILLED = """
import os, signal, sys
from pathlib import Path
from orchestrator.registries.placing import locked_model, place_version

def fill(into):
    (into / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)

with locked_model(Path(sys.argv[1]), "org/lm", make=True) as model:
    place_version(model, "v2-half-killed", fill)
"""


def test_a_publisher_that_is_killed_leaves_no_version_and_is_swept(store, target, artifact, tmp_path):
    repository = Path(__file__).parents[3]
    outcome = subprocess.run([sys.executable, "-c", KILLED, str(target.root)], cwd=repository)
    assert outcome.returncode < 0
    assert list(DirectoryRegistry("out", target.root).scan()) == []
    assert len(names(tmp_path / "out" / "org" / "lm")) == 1
    publication = make(store, target, artifact)
    assert names(tmp_path / "out" / "org" / "lm") == {publication.version}


@pytest.mark.parametrize(
    ("field", "name"),
    [("name", name) for name in HOSTILE] + [("version", name) for name in HOSTILE if name],
    ids=range(2 * len(HOSTILE) - 1),
)
def test_a_model_with_a_hostile_name_is_not_published(store, target, artifact, tmp_path, field, name):
    before = names(tmp_path)
    with pytest.raises(RegistryError) as caught:
        make(store, target, artifact, model=replace(source(), **{field: name}))
    assert str(caught.value).isprintable()
    assert names(tmp_path) <= before | {"out"}
    assert list(target.root.rglob("*.safetensors")) == []


@pytest.mark.parametrize("recipe", ["../../outside", "a/b", "a\nb", "\x1b"])
def test_a_recipe_with_a_hostile_name_is_not_published(store, target, artifact, recipe):
    with pytest.raises(RegistryError):
        make(store, target, artifact, recipe=recipe)


@pytest.mark.parametrize("place", ["org", "org/lm", "version"])
def test_a_link_in_the_way_is_refused_and_nothing_is_written_through_it(
    store, target, artifact, tmp_path, place
):
    outside = tmp_path / "outside"
    outside.mkdir()
    version = f"v2-half-{artifact[:12]}"
    link = target.root / ("org/lm/" + version if place == "version" else place)
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with pytest.raises(RegistryError, match="link"):
        make(store, target, artifact)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("place", ["org", "org/lm"])
def test_a_file_in_the_way_is_refused(store, target, artifact, place):
    path = target.root / place
    path.parent.mkdir(parents=True)
    path.write_text("a file")
    with pytest.raises(RegistryError, match="in the way"):
        make(store, target, artifact)
    assert path.read_text() == "a file"


def test_a_link_in_the_place_of_the_lock_is_refused(store, target, artifact, tmp_path):
    (target.root / "org" / "lm").mkdir(parents=True)
    (target.root / "org" / "lm" / ".prunefleet-lock").symlink_to(tmp_path / "outside")
    with pytest.raises(RegistryError, match="link"):
        make(store, target, artifact)
    assert not (tmp_path / "outside").exists()


def test_names_that_differ_only_in_case_are_not_made_beside_each_other(store, target, artifact):
    make(store, target, artifact, model=source("org/LM"))
    if (target.root / "org" / "lm").exists():
        pytest.skip("this file system ignores case")
    with pytest.raises(RegistryError, match="hold the two names for one"):
        make(store, target, artifact, model=source("org/lm"))
    assert names(target.root / "org") == {"LM"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody whom permissions bind")
def test_a_registry_that_may_not_be_written_is_not_permitted():
    script = """
import os, sys
from pathlib import Path
from orchestrator.errors import NotPermitted
from orchestrator.registries.placing import locked_model
os.setgid(65534); os.setuid(65534)
try:
    with locked_model(Path(sys.argv[1]), "org/lm", make=True):
        pass
except NotPermitted as error:
    print(error, error.exit_code)
"""
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        outcome = subprocess.run(
            [sys.executable, "-c", script, root],
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
        )
    assert "Permission denied" in outcome.stdout
    assert outcome.stdout.strip().endswith(str(NotPermitted.exit_code))

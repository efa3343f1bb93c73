"""Artifacts become versions of a registry and aliases move, whole or not at all, and never outside the registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator import schemas
from orchestrator.aliases import Move, move_alias, move_to, read_aliases
from orchestrator.artifacts import artifact_key, upload_artifact
from orchestrator.domain import ModelVersion
from orchestrator.errors import Damaged, NotFound, NotPermitted, RegistryError, StoreError
from orchestrator.identity import digest_bytes
from orchestrator.publishing import publish
from orchestrator.records import read_records
from orchestrator.registries.directory import DirectoryRegistry
from orchestrator.registries.directory_outlet import DirectoryOutlet
from orchestrator.stores.local import LocalStore

AT = datetime(2026, 3, 1, 2, 30, tzinfo=UTC).timestamp()


def weights(size: int = 4) -> bytes:
    text = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


FILES = {
    "config.json": b'{"architectures": ["TinyForCausalLM"]}',
    "model.safetensors": weights(),
    "prunefleet.json": b'{"amount": 0.5}',
}


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


@pytest.fixture
def target(tmp_path):
    return DirectoryOutlet("out", tmp_path / "out")


def make_artifact(store: LocalStore, tmp_path: Path, amount: int = 0) -> str:
    directory = tmp_path / f"artifact{amount}"
    directory.mkdir()
    for name, data in {**FILES, "prunefleet.json": str(amount).encode()}.items():
        (directory / name).write_bytes(data)
    return upload_artifact(store, directory)[0]


@pytest.fixture
def artifact(store, tmp_path):
    return make_artifact(store, tmp_path)


def source(name: str = "org/lm", version: str = "v2") -> ModelVersion:
    return ModelVersion(
        registry="zoo",
        name=name,
        version=version,
        digest=digest_bytes(b"dense"),
        uri="",
        format="safetensors",
        bytes=1,
        parameters=1,
        architecture="TinyForCausalLM",
    )


def make(store, target, artifact, model=None, recipe="half", at=AT):
    return publish(
        store,
        target,
        model=model or source(),
        recipe=recipe,
        artifact_digest=artifact,
        verdict_key="k" * 64,
        at=at,
        actor="ada",
        run_id="run-1",
    )


def move(store, target, publication, alias="candidate"):
    return move_alias(store, target, move_to(publication, registry="out", alias=alias, reason="passed"))


def names(directory: Path) -> set[str]:
    return {name for name in os.listdir(directory) if name != ".prunefleet-lock"}


def records(store) -> list[dict]:
    return read_records(store, "promotions").table.to_pylist()


# Publishing


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
    repository = Path(__file__).parents[2]
    outcome = subprocess.run([sys.executable, "-c", KILLED, str(target.root)], cwd=repository)
    assert outcome.returncode < 0
    assert list(DirectoryRegistry("out", target.root).scan()) == []
    assert len(names(tmp_path / "out" / "org" / "lm")) == 1
    publication = make(store, target, artifact)
    assert names(tmp_path / "out" / "org" / "lm") == {publication.version}


# Hostile names and places

HOSTILE = [
    "..",
    "../outside",
    "/tmp/outside",
    "a/../../outside",
    "",
    "a\0b",
    "new\nline",
    "\x1b[2J",
    ".hidden",
    "x" * 4096,
    "%2e%2e",
    "a\\b",
]


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
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
    assert "Permission denied" in outcome.stdout
    assert outcome.stdout.strip().endswith(str(NotPermitted.exit_code))


# Aliases


def test_an_alias_moves_and_says_from_what(store, target, tmp_path):
    first = make(store, target, make_artifact(store, tmp_path, 1))
    second = make(store, target, make_artifact(store, tmp_path, 2), at=AT + 60)
    assert move(store, target, first)["previous_version"] is None
    row = move(store, target, second)
    assert row["previous_version"] == first.version
    assert read_aliases(target, "org/lm") == {"candidate": second.version}
    assert [record["published_version"] for record in records(store)] == [first.version, second.version]


def test_a_record_has_the_columns_of_promotions_and_says_who_when_why(store, target, artifact):
    publication = make(store, target, artifact)
    row = move(store, target, publication)
    assert set(row) == set(schemas.TABLES["promotions"].names)
    assert row == {
        "unit_key": "k" * 64,
        "run_id": "run-1",
        "registry": "out",
        "model": "org/lm",
        "version": "v2",
        "model_digest": digest_bytes(b"dense"),
        "recipe": "half",
        "alias": "candidate",
        "published_version": publication.version,
        "previous_version": None,
        "artifact_digest": artifact,
        "at": datetime(2026, 3, 1, 2, 30, tzinfo=UTC),
        "actor": "ada",
        "reason": "passed",
    }
    assert records(store) == [row]
    assert read_records(store, "promotions").skipped == ()


def test_an_alias_that_points_there_already_is_not_moved_and_not_recorded(store, target, artifact):
    publication = make(store, target, artifact)
    assert move(store, target, publication)
    assert move(store, target, publication) is None
    assert len(records(store)) == 1


def test_aliases_of_one_model_live_beside_each_other(store, target, artifact):
    publication = make(store, target, artifact)
    move(store, target, publication, "candidate")
    move(store, target, publication, "champion")
    assert read_aliases(target, "org/lm") == {
        "candidate": publication.version,
        "champion": publication.version,
    }
    assert read_aliases(target, "org/other") == {}


def test_an_alias_can_be_moved_back_by_hand(store, target, tmp_path):
    first = make(store, target, make_artifact(store, tmp_path, 1))
    second = make(store, target, make_artifact(store, tmp_path, 2))
    move(store, target, first)
    move(store, target, second)
    back = Move(
        registry="out",
        model="org/lm",
        alias="candidate",
        published_version=first.version,
        at=AT + 99,
        actor="grace",
        reason="rollback",
    )
    row = move_alias(store, target, back)
    assert (row["previous_version"], row["actor"]) == (second.version, "grace")
    assert read_aliases(target, "org/lm") == {"candidate": first.version}
    assert len(records(store)) == 3


def test_an_alias_does_not_move_to_what_is_not_there(store, target, artifact):
    publication = make(store, target, artifact)
    wrong = replace(publication, version="v9-half-000000000000")
    with pytest.raises(RegistryError, match="has no version v9-half"):
        move(store, target, wrong)
    assert read_aliases(target, "org/lm") == {}
    assert records(store) == []


def test_moving_an_alias_of_a_model_that_is_not_there_makes_no_directory(store, target, artifact):
    publication = make(store, target, artifact)
    with pytest.raises(RegistryError):
        move(store, target, replace(publication, model=source("org/typo")))
    assert names(target.root / "org") == {"lm"}


def test_an_alias_does_not_move_to_a_link(store, target, artifact, tmp_path):
    make(store, target, artifact)
    (target.root / "org" / "lm" / "linked").symlink_to(tmp_path)
    with pytest.raises(RegistryError, match="link"):
        move_alias(
            store,
            target,
            Move(
                registry="out",
                model="org/lm",
                alias="a",
                published_version="linked",
                at=AT,
                actor="",
                reason="",
            ),
        )


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("field", ["model", "alias", "published_version"])
def test_a_move_with_a_hostile_name_is_refused(store, target, artifact, field, name):
    publication = make(store, target, artifact)
    hostile = replace(move_to(publication, registry="out", alias="candidate", reason=""), **{field: name})
    with pytest.raises(RegistryError) as caught:
        move_alias(store, target, hostile)
    assert str(caught.value).isprintable()
    assert records(store) == []
    assert read_aliases(target, "org/lm") == {}


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_the_aliases_of_a_hostile_name_are_not_looked_for(target, name):
    with pytest.raises(RegistryError):
        read_aliases(target, name)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b'{"candidate": 7}',
        b'{"candidate": "../x"}',
        b'{"\\u001b[2J": "v1"}',
        b'{"a": "\\ud800"}',
        b"[" * 100_000,
        b"\xff",
        b" " * 2_000_000,
    ],
)
def test_an_alias_file_that_cannot_be_trusted_is_refused_and_kept(store, target, artifact, data):
    publication = make(store, target, artifact)
    path = target.root / "org" / "lm" / "aliases.json"
    path.write_bytes(data)
    with pytest.raises(RegistryError, match="aliases.json"):
        move(store, target, publication)
    assert path.read_bytes() == data
    assert records(store) == []


def test_an_alias_file_that_is_a_link_is_refused(store, target, artifact, tmp_path):
    publication = make(store, target, artifact)
    (tmp_path / "outside.json").write_text("{}")
    (target.root / "org" / "lm" / "aliases.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(RegistryError, match="aliases.json"):
        move(store, target, publication)
    assert (tmp_path / "outside.json").read_text() == "{}"


def test_movers_at_once_lose_no_alias_and_no_record(store, target, artifact):
    publication = make(store, target, artifact)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: move(store, target, publication, f"alias{number % 12}"), range(36)))
    assert len(read_aliases(target, "org/lm")) == 12
    assert len(records(store)) == 12


# A crash at any moment


class Crash(BaseException):
    """The process ends here."""


class Crashing(LocalStore):
    """A store whose caller dies before or after its n-th write."""

    def __init__(self, root: Path, at: int, *, after: bool):
        super().__init__(root)
        self._left, self._after = at, after

    def put(self, key: str, data: bytes) -> None:
        self._step(lambda: LocalStore.put(self, key, data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._step(lambda: LocalStore.put_if_absent(self, key, data))

    def delete(self, key: str) -> None:
        self._step(lambda: LocalStore.delete(self, key))

    def _step(self, write):
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Crash
        outcome = write()
        if self._left == 0:
            raise Crash
        return outcome


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_after_a_crash_at_any_step_of_a_move_the_next_one_leaves_one_record_a_move(
    store, target, tmp_path, step, after
):
    first = make(store, target, make_artifact(store, tmp_path, 1))
    second = make(store, target, make_artifact(store, tmp_path, 2))
    move(store, target, first)
    with pytest.raises(Crash):
        move(Crashing(tmp_path / "store", step, after=after), target, second)
    move(store, target, second)
    assert read_aliases(target, "org/lm") == {"candidate": second.version}
    assert [(r["previous_version"], r["published_version"]) for r in records(store)] == [
        (None, first.version),
        (first.version, second.version),
    ]
    assert list(store.list("promotions-begun/")) == []


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_after_a_crash_a_move_to_something_else_still_records_what_happened(
    store, target, tmp_path, step, after
):
    first, second, third = (
        make(store, target, make_artifact(store, tmp_path, number)) for number in range(3)
    )
    move(store, target, first)
    with pytest.raises(Crash):
        move(Crashing(tmp_path / "store", step, after=after), target, second)
    was_made = read_aliases(target, "org/lm") == {"candidate": second.version}
    move(store, target, third)
    moves = [(r["previous_version"], r["published_version"]) for r in records(store)]
    expected = [(None, first.version), (first.version, second.version), (second.version, third.version)]
    if not was_made:
        expected = [(None, first.version), (first.version, third.version)]
    assert sorted(moves, key=str) == sorted(expected, key=str)


def test_a_damaged_announcement_stops_the_move_and_is_named(store, target, artifact):
    publication = make(store, target, artifact)
    with pytest.raises(Crash):
        move(Crashing(Path(store.url), 1, after=True), target, publication)
    (announced,) = store.list("promotions-begun/")
    store.put(announced.key, b"{")
    with pytest.raises(Damaged, match="promotions-begun/"):
        move(store, target, publication)


def test_a_store_that_fails_after_the_move_is_told_and_the_record_comes_with_the_next_one(
    store, target, artifact, tmp_path
):
    publication = make(store, target, artifact)

    class Failing(LocalStore):
        def put_if_absent(self, key: str, data: bytes) -> bool:
            raise StoreError("the store went away")

    with pytest.raises(StoreError):
        move(Failing(tmp_path / "store"), target, publication)
    assert read_aliases(target, "org/lm") == {"candidate": publication.version}
    assert records(store) == []
    assert move(store, target, publication) is None
    assert [record["published_version"] for record in records(store)] == [publication.version]

"""Artifacts go into the store and come back, or say which file is damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator.artifacts import (
    artifact_files,
    artifact_key,
    differences,
    download_artifact,
    upload_artifact,
)
from orchestrator.errors import BrokenInvariant, Damaged, NotFound, StoreError
from orchestrator.identity import digest_bytes, digest_files
from orchestrator.stores.local import LocalStore
from tasks.contract import BadInput

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights" * 100,
    "sub/more.txt": b"",
    "prunefleet.json": b"{}",
}


class Counting(LocalStore):
    """A store that counts what is sent and can be told to fail."""

    def __init__(self, root: Path):
        super().__init__(root)
        self.sent: list[str] = []
        self.fail_at: int | None = None

    def upload(self, path: Path, key: str) -> None:
        if self.fail_at == len(self.sent):
            raise StoreError("the store went away")
        super().upload(path, key)
        self.sent.append(key)


@pytest.fixture
def store(tmp_path):
    return Counting(tmp_path / "store")


@pytest.fixture
def artifact(tmp_path):
    return write(tmp_path / "artifact", FILES)


@pytest.fixture
def into(tmp_path):
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


def write(directory: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return directory


def read(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_what_goes_in_comes_out(store, artifact, into):
    digest, size = upload_artifact(store, artifact)
    assert digest == digest_files({name: digest_bytes(data) for name, data in FILES.items()})
    assert size == sum(map(len, FILES.values()))
    download_artifact(store, digest, into)
    assert read(into) == FILES


def test_the_layout_in_the_store_is_the_documented_one(store, artifact):
    digest, _ = upload_artifact(store, artifact)
    assert {stat.key for stat in store.list("")} == {
        f"artifacts/{digest}/{name}" for name in [*FILES, "files.json"]
    }
    listing = json.loads(store.get(f"artifacts/{digest}/files.json"))
    assert listing["files"]["config.json"] == {"bytes": 2, "sha256": digest_bytes(b"{}")}


def test_a_second_upload_sends_nothing(store, artifact):
    first = upload_artifact(store, artifact)
    assert len(store.sent) == len(FILES)
    assert upload_artifact(store, artifact) == first
    assert len(store.sent) == len(FILES)


@pytest.mark.parametrize("sent", range(4))
def test_an_upload_that_was_cut_off_is_no_artifact_and_goes_on_where_it_stopped(store, artifact, into, sent):
    store.fail_at = sent
    with pytest.raises(StoreError, match="went away"):
        upload_artifact(store, artifact)
    digest = digest_files({name: digest_bytes(data) for name, data in FILES.items()})
    with pytest.raises(NotFound, match="no complete artifact"):
        download_artifact(store, digest, into)
    store.fail_at = None
    upload_artifact(store, artifact)
    assert len(store.sent) == len(FILES)
    download_artifact(store, digest, into)
    assert read(into) == FILES


def test_a_file_of_another_size_is_sent_again(store, artifact, into):
    digest, _ = upload_artifact(store, artifact)
    store.put(artifact_key(digest, "config.json"), b"cut")
    upload_artifact(store, artifact)
    download_artifact(store, digest, into)
    assert read(into) == FILES


def test_an_empty_directory_is_no_artifact(store, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no files"):
        upload_artifact(store, tmp_path / "empty")


HOSTILE_FILES = [
    "new\nline",
    "\x1b[2J",
    ".hidden",
    "back\\slash",
    "%2e%2e",
    " leading",
    "sub/.hidden",
    "\u202e",
    "files.json",
]


@pytest.mark.parametrize("name", HOSTILE_FILES, ids=range(len(HOSTILE_FILES)))
def test_a_file_with_a_hostile_name_is_not_kept(store, tmp_path, name):
    directory = write(tmp_path / "artifact", {**FILES, name: b"x"})
    with pytest.raises(BadInput) as caught:
        upload_artifact(store, directory)
    assert str(caught.value).isprintable()
    assert store.sent == []


def test_names_that_differ_only_in_case_are_not_kept(store, tmp_path):
    directory = write(tmp_path / "artifact", {**FILES, "CONFIG.json": b"x"})
    if len(read(directory)) == len(FILES):
        pytest.skip("this file system ignores case")
    with pytest.raises(BadInput, match="one name on some file systems"):
        upload_artifact(store, directory)


@pytest.mark.parametrize("kind", ["link to a file", "link to a directory", "dangling link", "pipe"])
def test_what_is_not_a_file_is_not_kept(store, artifact, kind):
    match kind:
        case "link to a file":
            (artifact / "extra").symlink_to("/etc/passwd")
        case "link to a directory":
            (artifact / "extra").symlink_to("/etc")
        case "dangling link":
            (artifact / "extra").symlink_to("nowhere")
        case "pipe":
            os.mkfifo(artifact / "extra")
    with pytest.raises(BadInput, match="extra"):
        upload_artifact(store, artifact)
    assert store.sent == []


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("harm", ["flipped", "cut", "longer", "missing"])
def test_a_damaged_file_is_found_and_named(store, artifact, into, name, harm):
    digest, _ = upload_artifact(store, artifact)
    key, data = artifact_key(digest, name), FILES[name]
    match harm:
        case "flipped" if data:
            store.put(key, bytes([data[0] ^ 1]) + data[1:])
        case "cut" if data:
            store.put(key, data[:-1])
        case "missing":
            store.delete(key)
        case _:
            store.put(key, data + b"x")
    with pytest.raises(Damaged, match=name):
        download_artifact(store, digest, into)


def listing(**files: object) -> bytes:
    return json.dumps({"files": files}).encode()


def item(data: bytes = b"{}") -> dict[str, object]:
    return {"bytes": len(data), "sha256": digest_bytes(data)}


BAD_LISTINGS = {
    "empty": b"",
    "cut": b'{"files": {',
    "not an object": b"[]",
    "no files": b'{"files": {}}',
    "files is a list": b'{"files": []}',
    "deep": b"[" * 100_000,
    "not UTF-8": b"\xff\xfe\x00",
    "an item is no object": listing(a=7),
    "no size": listing(a={"sha256": "0" * 64}),
    "negative size": listing(a={"bytes": -1, "sha256": "0" * 64}),
    "size is text": listing(a={"bytes": "1", "sha256": "0" * 64}),
    "short digest": listing(a={"bytes": 1, "sha256": "0" * 63}),
    "another artifact's": listing(a=item()),
}
HOSTILE_NAMES = [
    "../../outside",
    "/tmp/outside",
    ".bashrc",
    "a\0b",
    "files.json",
    "a//b",
    "a/../b",
    "\x1b[2J",
    "\udcff",
]


@pytest.mark.parametrize("case", BAD_LISTINGS)
def test_a_damaged_list_of_files_is_refused_and_nothing_is_written(store, into, case):
    store.put(artifact_key("0" * 64, "files.json"), BAD_LISTINGS[case])
    with pytest.raises(Damaged, match="files.json"):
        download_artifact(store, "0" * 64, into)
    assert list(into.iterdir()) == []


@pytest.mark.parametrize(
    "names", [*([name] for name in HOSTILE_NAMES), ["a", "A"]], ids=range(len(HOSTILE_NAMES) + 1)
)
def test_a_list_with_hostile_names_is_refused_even_under_its_own_digest(store, tmp_path, into, names):
    digest = "0" * 64 if names == ["\udcff"] else digest_files({name: digest_bytes(b"{}") for name in names})
    store.put(artifact_key(digest, "files.json"), listing(**{name: item() for name in names}))
    with pytest.raises(Damaged, match="files.json") as caught:
        download_artifact(store, digest, into)
    assert str(caught.value).isprintable()
    assert list(into.iterdir()) == []
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("digest", ["", "..", "../../x", "A" * 64, "0" * 63, "0" * 64 + "/"])
def test_a_digest_that_is_none_is_refused(store, into, digest):
    with pytest.raises(BrokenInvariant):
        download_artifact(store, digest, into)


def test_an_artifact_that_is_not_there_is_named(store, into):
    with pytest.raises(NotFound, match="0" * 64):
        download_artifact(store, "0" * 64, into)


def test_it_is_read_into_an_empty_directory_only(store, artifact):
    digest, _ = upload_artifact(store, artifact)
    with pytest.raises(BrokenInvariant, match="not empty"):
        download_artifact(store, digest, artifact)


def test_differences_are_told_a_line_a_file(store, artifact):
    digest, _ = upload_artifact(store, artifact)
    files = artifact_files(store, digest)
    assert differences(artifact, files) == []
    (artifact / "config.json").write_bytes(b"[]")
    (artifact / "prunefleet.json").unlink()
    (artifact / "more").write_bytes(b"")
    lines = differences(artifact, files)
    assert [line.split()[0] for line in lines] == ["more", "prunefleet.json", "config.json"]


def test_a_link_makes_a_directory_different(store, artifact):
    digest, _ = upload_artifact(store, artifact)
    (artifact / "link").symlink_to("config.json")
    (line,) = differences(artifact, artifact_files(store, digest))
    assert "link" in line

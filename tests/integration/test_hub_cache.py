"""What huggingface_hub keeps on a machine is read without any network, and its links are never followed."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import pytest
from servers.tiny_files import model

from orchestrator.errors import ModelChanged, NotPermitted, RegistryError
from orchestrator.identity import digest_bytes, digest_files
from orchestrator.registries.hub_cache import HubCacheSource
from orchestrator.registries.modelcard import model_card
from orchestrator.registries.opening import open_outlet, open_registry
from orchestrator.specs.registries import HuggingFaceRegistrySpec, Select

COMMIT = "a" * 40
OTHER = "b" * 40


def keep(root: Path, repository: str, commit: str, files: dict[str, bytes], ref: str = "main") -> Path:
    """Files as huggingface_hub lays them out: blobs, links to them, a ref."""
    folder = root / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    for path in (snapshot, folder / "blobs", folder / "refs"):
        path.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        is_large = name.endswith(".safetensors")
        blob = hashlib.sha256(data).hexdigest() if is_large else hashlib.sha1(data).hexdigest()
        (folder / "blobs" / blob).write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    (folder / "refs" / ref).write_text(commit)
    return snapshot


@pytest.fixture
def root(tmp_path):
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"


def spec_of(root, **changes):
    return HuggingFaceRegistrySpec(kind="huggingface", cache=str(root), **changes)


def scan(root, **changes):
    return list(open_registry("hub", spec_of(root, **changes)).scan())


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to connect or to look a host up ends the test."""
    state = {"on": True}

    def refuse(event, _):
        if state["on"] and event in ("socket.connect", "socket.getaddrinfo"):
            raise AssertionError(f"{event} with the network cut")

    sys.addaudithook(refuse)
    yield
    state["on"] = False


def test_a_snapshot_is_a_version_named_by_its_commit_and_no_network_is_used(root, tmp_path, no_network):
    keep(root, "org/lm", COMMIT, model())
    (found,) = scan(root)
    assert found.id == f"hub/org/lm@{COMMIT}"
    assert found.digest == digest_files({name: digest_bytes(data) for name, data in model().items()})
    assert found.tags["refs"] == "main"
    (tmp_path / "into").mkdir()
    open_registry("hub", spec_of(root)).fetch(found, tmp_path / "into")
    assert {path.name: path.read_bytes() for path in (tmp_path / "into").iterdir()} == model()


def test_the_library_itself_finds_what_the_test_laid_out(root):
    from huggingface_hub import try_to_load_from_cache

    keep(root, "org/lm", COMMIT, model())
    found = try_to_load_from_cache("org/lm", "config.json", cache_dir=root)
    assert Path(str(found)).read_bytes() == model()["config.json"]


def test_a_branch_selects_among_snapshots(root):
    keep(root, "org/lm", COMMIT, model(), ref="old")
    keep(root, "org/lm", OTHER, model("OtherForCausalLM"))
    assert len(scan(root)) == 2
    (found,) = scan(root, select=Select(alias="main"))
    assert found.version == OTHER


@pytest.mark.parametrize(
    "link",
    ["/etc/passwd", "../../../../etc/passwd", "../../blobs/../../x", "config2.json", "../../blobs/xyz"],
)
def test_a_link_that_names_no_blob_is_a_problem_and_is_not_followed(root, link):
    snapshot = keep(root, "org/lm", COMMIT, model())
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(link)
    (found,) = scan(root)
    assert "link" in found.problem
    assert found.digest == ""


def test_a_blob_that_is_itself_a_link_is_a_problem(root, tmp_path):
    snapshot = keep(root, "org/lm", COMMIT, model())
    blob = snapshot / os.readlink(snapshot / "config.json")
    blob.unlink()
    blob.symlink_to("/etc/passwd")
    (found,) = scan(root)
    assert found.problem


def test_a_blob_whose_bytes_are_not_those_of_its_name_is_refused_when_it_is_fetched(root, tmp_path):
    snapshot = keep(root, "org/lm", COMMIT, model())
    (planned,) = scan(root)
    into = tmp_path / "into"
    into.mkdir()
    blob = snapshot / os.readlink(snapshot / "model.safetensors")
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(ModelChanged, match="SHA-256"):
        open_registry("hub", spec_of(root)).fetch(planned, into)


def test_what_was_not_downloaded_whole_is_broken_and_stops_nobody(root):
    snapshot = keep(root, "org/bad", COMMIT, model())
    (snapshot / os.readlink(snapshot / "model.safetensors")).unlink()
    keep(root, "org/good", COMMIT, model())
    bad, good = scan(root)
    assert "no weights" in bad.problem
    assert good.problem == ""


@pytest.mark.parametrize("what", ["a pipe", "a folder"])
def test_a_blob_that_is_no_file_is_a_problem_of_its_version(root, what):
    snapshot = keep(root, "org/bad", COMMIT, model())
    keep(root, "org/good", COMMIT, model())
    blob = snapshot / os.readlink(snapshot / "model.safetensors")
    blob.unlink()
    os.mkfifo(blob) if what == "a pipe" else blob.mkdir()
    bad, good = scan(root)
    assert bad.problem
    assert good.problem == ""


def test_a_blob_that_cannot_be_read_is_an_error_of_ours(root, monkeypatch):
    keep(root, "org/lm", COMMIT, model())
    source = HubCacheSource(root)
    (offer,) = source.offers()

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("orchestrator.registries.hub_cache.open_regular", denied)
    with pytest.raises(RegistryError, match="cannot be read: Permission denied"):
        source.head(offer, "model.safetensors", 8)


def test_a_cache_is_only_read(root):
    with pytest.raises(NotPermitted, match="only read"):
        open_outlet("hub", spec_of(root))


def test_one_snapshot_is_found_by_its_commit_alone(root):
    keep(root, "org/lm", COMMIT, model())
    assert HubCacheSource(root).offer("org/lm", COMMIT).name == "org/lm"


def test_a_card_names_base_and_measurements_and_quotes_what_came_from_outside():
    card = model_card(
        "v1-half-abc",
        {"model": "org/lm", "recipe": "half", "measured.perplexity": "9.5", "actor": "a|b\n<script>"},
    )
    assert 'base_model: "org/lm"' in card
    assert "| perplexity | 9.5 |" in card
    assert "<script>" not in card
    assert "base_model" not in model_card("x", {"model": "no repository\n---"})

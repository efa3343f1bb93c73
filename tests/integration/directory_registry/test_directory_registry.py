"""A directory of models as found on disks: names, versions and what is not a model."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from cases.model_directories import CONFIG, ids, make, problems, scan

from orchestrator.errors import RegistryError
from orchestrator.registries import tree
from orchestrator.registries.directory import DirectoryRegistry


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
        repository = Path(__file__).parents[3]
        outcome = subprocess.run(
            [sys.executable, "-c", script, name], capture_output=True, text=True, cwd=repository, check=True
        )
    closed, locked, open_one = outcome.stdout.splitlines()
    assert closed.startswith("closed@main: it cannot be opened: Permission denied")
    assert "model.safetensors" in locked
    assert "Permission denied" in locked
    assert open_one == "open@v1: "

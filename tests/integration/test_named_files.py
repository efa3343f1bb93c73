"""What a user names on the command line, files and places: written, or refused with the reason; never half a traceback."""

from __future__ import annotations

import errno
import json

import pytest
from cases.commands import typed

from orchestrator.domain import FailureClass
from orchestrator.worker import classify

FLEET = """\
version: 1
name: small
store: ./store
registries:
  models: {kind: directory, path: ./models}
recipes:
  half: {match: {registry: models}, prune: {criterion: magnitude, amount: 0.5}}
pools:
  cpu: {cpus: 1}
"""


@pytest.fixture
def home(tmp_path, tiny_model):
    """A fleet of one model, and the record of a run that has ended."""
    tiny_model(tmp_path / "models" / "lm" / "1", "LlamaForCausalLM", seed=1)
    (tmp_path / "fleet.yaml").write_text(FLEET)
    run = tmp_path / "store" / "runs" / "one"
    run.mkdir(parents=True)
    (run / "status.json").write_text(json.dumps({"fleet": "small", "state": "ended", "started_at": 1.0}))
    (run / "report.html").write_text("<!doctype html>")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ("init", "models", "--to"),
        ("report", "--to"),
        ("simulate", "fleet.yaml", "--nothing-cached", "--plot"),
    ],
)
@pytest.mark.parametrize("place", ["no folder/out", "models", "fleet.yaml/out"])
def test_a_place_that_cannot_be_written_is_named_with_the_reason(home, command, place):
    done = typed(home, *command, place, check=2)
    assert place in done.stderr
    assert "cannot be written" in done.stderr or "exists; move it away" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_first_fleet_file_never_replaces_another(home):
    assert "fleet.yaml exists" in typed(home, "init", "models", check=2).stderr
    assert (home / "fleet.yaml").read_text() == FLEET


def test_what_is_said_after_init_can_be_typed_as_it_stands(home):
    done = typed(home, "init", "models", "--to", "my fleet.yaml", check=0)
    assert "next: prunefleet plan 'my fleet.yaml'" in done.stderr


def test_a_report_is_written_over_the_one_before(home):
    (home / "page.html").write_text("last night")
    typed(home, "report", "latest", "--to", "page.html", check=0)
    assert (home / "page.html").read_text() == "<!doctype html>"


@pytest.mark.parametrize(
    "command", [("status",), ("report",), ("verify",), ("gc",), ("rebuild",), ("query", "SELECT 1")]
)
@pytest.mark.parametrize("place", ["no-such-folder", "fleet.txt"])
def test_a_store_that_is_not_there_is_no_empty_store(home, command, place):
    (home / "fleet.txt").write_text(FLEET)
    done = typed(home, *command, "--store", place, check=2)
    assert f"--store {place}: there is no such directory" in done.stderr
    assert not (home / "no-such-folder").exists()


def test_one_answer_has_one_form(home):
    assert "exclude each other" in typed(home, "query", "SELECT 1", "--json", "--csv", check=2).stderr


@pytest.mark.parametrize("command", [("run", "fleet.yaml"), ("run", "fleet.yaml", "--backend", "local")])
def test_a_cache_that_cannot_be_written_is_refused_before_a_run_begins(home, command):
    done = typed(home, *command, "--cache", "fleet.yaml", check=2)
    assert "cannot be cached in fleet.yaml" in done.stderr
    assert "--cache" in done.stderr
    assert {path.name for path in (home / "store" / "runs").iterdir()} == {"one"}


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EROFS, FailureClass.ENVIRONMENT),
        (errno.EACCES, FailureClass.ENVIRONMENT),
        (errno.ENOSPC, FailureClass.INFRASTRUCTURE),
        (errno.EMFILE, FailureClass.INFRASTRUCTURE),
        (errno.EBADF, FailureClass.INTERNAL),
    ],
)
def test_what_a_node_refuses_is_no_bug_of_ours(number, kind):
    assert classify(OSError(number, "no", "/cache")).failure_class is kind


def test_a_plan_is_data_that_can_be_kept_in_a_file_and_names_are_whole_there(home):
    name = "half-of-each-layer-by-magnitude-of-all-models-of-the-registry"
    (home / "fleet.yaml").write_text(FLEET.replace("half:", f"{name}:"))
    done = typed(home, "plan", "fleet.yaml", check=0)
    head, row, *_ = done.stdout.splitlines()
    assert head.split() == ["recipe", "models", "prune"]
    assert row.split() == [name, "1", "0/1"]
    assert "1 unit to do" in done.stdout

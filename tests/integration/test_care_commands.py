"""`doctor`, `verify` and `gc` as a user types them."""

from __future__ import annotations

import json
import os
import time
from functools import partial

import pytest

from orchestrator.care.garbage import DAY
from orchestrator.stores.local import LocalStore


@pytest.fixture
def home(make_small_fleet, tmp_path):
    """A directory with a fleet, two models and data."""
    make_small_fleet(models=2)
    return tmp_path


@pytest.fixture
def cli(prunefleet, monkeypatch):
    """Types a command, which ends well unless another exit code is to come."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    return partial(prunefleet, check=0)


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


def age(path, days):
    at = time.time() - days * DAY
    for one in path.rglob("*"):
        os.utime(one, (at, at))


def test_doctor_names_every_property_and_leaves_nothing(home, cli):
    told = json.loads(cli("doctor", "fleet.yaml", "--json").stdout)
    states = {(check["area"], check["name"].split()[0]): check["state"] for check in told["checks"]}
    assert set(states.values()) == {"ok"}
    assert told["exit_code"] == 0
    for name in (
        "create-only",
        "swap",
        "read-after-write",
        "atomic",
        "listing",
        "whole",
        "unfinished",
        "removal",
        "odd",
    ):
        assert ("store", name) in states
    assert ("registry zoo", "scan") in states
    assert ("dataset digits", "file") in states
    assert ("versions", "ray") in states
    assert not (home / "store" / "doctor").exists() or not list((home / "store" / "doctor").iterdir())


def test_doctor_names_what_is_wrong_and_what_to_do(home, cli):
    config = home / "zoo" / "mlp0" / "1" / "config.json"
    config.write_text("{")
    (home / "data" / "arrays.parquet").unlink()
    told = cli("doctor", "fleet.yaml", check=4).stdout
    (broken,) = [line for line in told.splitlines() if line.startswith("broken")]
    assert "dataset digits" in broken
    assert "arrays.parquet" in broken
    (warned,) = [line for line in told.splitlines() if line.startswith("warning")]
    assert "registry zoo" in warned
    assert "of which 1 are broken: mlp0@1" in warned
    assert told.count("What to do:") >= 1


def test_doctor_of_a_registry_that_is_gone(home, cli):
    (home / "zoo").rename(home / "elsewhere")
    told = cli("doctor", "fleet.yaml", check=69).stdout
    assert "unreachable   registry zoo: scan" in told


def test_doctor_of_a_store_that_cannot_be_written(home, cli):
    (home / "store").write_text("a file where a directory belongs")
    told = json.loads(cli("doctor", "fleet.yaml", "--json", check=4).stdout)
    found = [check for check in told["checks"] if check["area"] == "store"]
    assert [check["state"] for check in found] == ["broken"]
    assert {check["area"] for check in told["checks"]} >= {"registry zoo", "dataset digits"}, (
        "it goes on with the rest"
    )


def test_doctor_shows_nothing_that_acts_in_a_terminal(home, cli):
    evil = home / "zoo" / "\x1b]0;evil\x07[red]" / "1"
    evil.mkdir(parents=True)
    (evil / "config.json").write_text("{")
    (evil / "model.safetensors").write_bytes(b"")
    told = cli("doctor", "fleet.yaml").stdout
    assert "\x1b" not in told
    assert "\x07" not in told


def test_doctor_masks_secrets_wherever_they_come_from(home, cli, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "canary-77aa")
    evil = home / "zoo" / "canary-77aa" / "1"
    evil.mkdir(parents=True)
    (evil / "model.safetensors").write_bytes(b"")
    for told in (cli("doctor", "fleet.yaml").stdout, cli("doctor", "fleet.yaml", "--json").stdout):
        assert "canary-77aa" not in told
        assert "zoo/***" in told or "***@1" in told


@pytest.mark.parametrize("command", ["doctor", "run"])
def test_a_cluster_that_strangers_can_reach_is_refused_before_anything_is_sent(home, cli, command):
    """The address is one that nobody has, so an attempt to reach it would take its time."""
    if command == "run":
        began = time.monotonic()
        told = cli("run", "fleet.yaml", "--address", "192.0.2.1:6379", check=77).stderr
        assert time.monotonic() - began < 30
        assert "RAY_AUTH_MODE" in told
        assert not (home / "store").exists()
    else:
        told = cli("doctor", "fleet.yaml", "--address", "127.0.0.1:1", check=69).stdout
        assert "unreachable   cluster: answers: nothing listens at 127.0.0.1:1" in told


def test_a_fleet_file_that_is_wrong_is_a_usage_error(home, cli):
    (home / "fleet.yaml").write_text("version: 2\n")
    for command in (("doctor", "fleet.yaml"), ("verify",), ("gc",)):
        assert "fleet.yaml:1" in cli(*command, check=2).stderr


def test_verify_ends_well_on_what_is_sound_and_names_what_is_not(home, cli, store, keep_pruned):
    key, digest = keep_pruned(store, 1)
    sound = cli("verify")
    assert "all as their digests say" in sound.stderr
    store.put(f"artifacts/{digest}/config.json", b"{}")
    told = cli("verify", "--store", "store", check=4)
    assert f"artifact: artifacts/{digest}/config.json" in told.stdout
    assert f"What to do: delete {key}" in told.stdout
    value = json.loads(cli("verify", "--store", "store", "--json", check=4).stdout)
    assert [damage["subject"] for damage in value["damages"]] == [f"artifacts/{digest}/config.json"]
    assert value["counts"]["result"] == 1


def test_gc_shows_first_and_removes_only_when_it_is_told_so(home, cli, store, keep_pruned):
    _, kept = keep_pruned(store, 1)
    _, lost = keep_pruned(store, 2, with_result=False)
    assert "no garbage" in cli("gc").stderr
    age(home / "store", 30)
    for arguments in (("gc",), ("gc", "--dry-run"), ("gc", "--store", "store")):
        shown = cli(*arguments)
        assert lost in shown.stdout
        assert kept not in shown.stdout
        assert "would be removed" in shown.stderr
    rows = json.loads(cli("gc", "--json").stdout)
    assert [(row["kind"], row["name"]) for row in rows["garbage"]] == [("artifact", lost)]
    assert rows["bytes"] == rows["garbage"][0]["bytes"] > 0
    done = json.loads(cli("gc", "--yes", "--json").stdout)
    assert [row["name"] for row in done["removed"]] == [lost]
    assert not (home / "store" / "artifacts" / lost).exists()
    assert (home / "store" / "artifacts" / kept).is_dir()
    cli("verify")
    assert "no garbage" in cli("gc", "--yes").stderr


@pytest.mark.parametrize("age_", ["7", "d", "-1d", "1y", "", "30m", "0d", "nand"])
def test_an_age_that_is_none_or_too_short_is_refused(home, cli, age_):
    told = cli("gc", f"--older-than={age_}", check=2).stderr
    assert "is no age" in told or "is too short" in told


def test_gc_takes_a_dry_run_or_a_yes(home, cli):
    assert "exclude each other" in cli("gc", "--dry-run", "--yes", check=2).stderr


def test_the_exit_codes_of_doctor_are_in_its_help(cli):
    told = " ".join(cli("doctor", "--help").stdout.split())
    assert "0: all is well" in told
    for code in ("4: something is broken", "69: something does not answer", "77: something is not permitted"):
        assert code in told

"""The demo as it is shipped: its fleet, on the trained zoo, ends as its comments say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import pytest

from orchestrator.spec import load_fleet

REPOSITORY = Path(__file__).resolve().parents[2]
FLEET = REPOSITORY / "examples" / "demo" / "fleet.yaml"
COMMAND = Path(sys.executable).parent / "prunefleet"
BOLD = "lm-too-bold"
UNEVEN = "digits-uneven"


@pytest.fixture(scope="module")
def fleet():
    return load_fleet(FLEET.read_text(), FLEET.name, PurePosixPath(FLEET.parent))


@pytest.fixture(scope="module")
def versions(zoo: Path) -> dict[str, str]:
    """name/version -> architecture."""
    return {
        config.parent.relative_to(zoo / "models").as_posix(): json.loads(config.read_text())["architectures"][
            0
        ]
        for config in sorted(zoo.glob("models/*/*/config.json"))
    }


@pytest.fixture(scope="module")
def home(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo's file tree with the zoo in its place, after `prunefleet run`."""
    root = tmp_path_factory.mktemp("demo")
    (root / "examples" / "demo").mkdir(parents=True)
    (root / "examples" / "demo" / "fleet.yaml").write_text(FLEET.read_text())
    (root / "demo").mkdir()
    (root / "demo" / "zoo").symlink_to(zoo)
    return root


@pytest.fixture(scope="module")
def ended(home: Path) -> subprocess.CompletedProcess[str]:
    return prunefleet(home, "run", "examples/demo/fleet.yaml", "--backend", "local", "--quiet")


def prunefleet(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [COMMAND, *words], cwd=home, env=environment, capture_output=True, text=True, timeout=1200
    )


def rows(home: Path, sql: str) -> list[dict]:
    done = prunefleet(home, "query", "--json", "--store", "demo/store", sql)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_version_of_the_zoo_has_at_least_two_recipes(fleet, versions):
    for version, architecture in versions.items():
        name = version.split("/")[0]
        recipes = [
            key
            for key, recipe in fleet.recipes.items()
            if fnmatchcase(name, recipe.match.name) and fnmatchcase(architecture, recipe.match.architecture)
        ]
        assert len(recipes) >= 2, version


def test_every_recipe_is_for_some_version(fleet, versions):
    for key, recipe in fleet.recipes.items():
        assert any(
            fnmatchcase(version.split("/")[0], recipe.match.name)
            and fnmatchcase(architecture, recipe.match.architecture)
            for version, architecture in versions.items()
        ), key


def test_what_is_published_goes_under_different_aliases(fleet):
    published = {recipe.publish.alias for recipe in fleet.recipes.values() if recipe.publish}
    assert len(published) >= 2
    assert {recipe.publish.registry for recipe in fleet.recipes.values() if recipe.publish} == {"published"}


def test_the_demo_ends_with_the_exit_code_of_a_blocked_gate(ended):
    assert ended.returncode == 3, ended.stdout + ended.stderr


def test_only_the_recipes_that_go_too_far_are_blocked_and_most_others_pass(home, ended):
    found = rows(home, "SELECT * FROM verdicts WHERE gate = 'overall'")
    assert {row["recipe"] for row in found if row["verdict"] == "block"} == {BOLD, UNEVEN}
    others = [row for row in found if row["recipe"] not in (BOLD, UNEVEN)]
    passed = [row for row in others if row["verdict"] == "pass"]
    assert len(passed) >= 0.85 * len(others)
    for row in others:
        if row not in passed:
            assert row["verdict"] == "inconclusive"
            assert row["samples_needed"] > row["samples"]


def test_harm_to_one_digit_is_refused_that_the_average_alone_would_let_through(home, ended):
    found = rows(home, f"SELECT * FROM verdicts WHERE recipe = '{UNEVEN}'")
    whole = [row for row in found if row["gate"] == "max_drop"]
    assert len(whole) == 2
    assert {row["verdict"] for row in whole} == {"pass"}
    for row in whole:
        worst = max(
            other["observed"]
            for other in found
            if other["gate"] == "max_slice_drop" and other["unit_key"] == row["unit_key"]
        )
        assert worst > 4 * row["observed"]
    (run,) = (home / "demo" / "store" / "runs").iterdir()
    assert "digit=" in (run / "report.html").read_text().split("Models and recipes")[0]


def test_what_passes_is_shown_to_lose_less_than_its_limit(home, ended):
    found = rows(home, "SELECT * FROM verdicts WHERE gate != 'overall' AND verdict = 'pass'")
    assert found
    for row in found:
        assert row["observed"] <= row["upper_bound"] < row["limit"], row


def test_an_allocation_by_sensitivity_beats_magnitude_on_every_language_model(home, ended):
    found = rows(
        home,
        "SELECT recipe, model, version, value, dense_value FROM evaluations"
        " WHERE slice = 'all' AND metric = 'perplexity'",
    )
    value = {
        (row["recipe"], row["model"], row["version"]): row["value"] / row["dense_value"] for row in found
    }
    half = {key[1:]: ratio for key, ratio in value.items() if key[0] == "lm-half"}
    assert len(half) == 3
    assert all(ratio < value[("lm-half-magnitude", *key)] for key, ratio in half.items())


def test_no_blocked_artifact_is_published(home, ended):
    published = (home / "demo" / "published").rglob("*")
    assert not [path for path in published if BOLD in path.name or UNEVEN in path.name]


def test_published_models_measure_as_reported_when_checked_without_prunefleet(
    home, ended, zoo, from_examples
):
    check = from_examples("check_artifact").check
    found = rows(
        home, "SELECT recipe, model, version, slice, value FROM evaluations WHERE model != 'digit-resnet'"
    )
    reported: dict[tuple[str, ...], dict[str, float]] = {}
    for row in found:
        reported.setdefault((row["model"], row["version"], row["recipe"]), {})[row["slice"]] = row["value"]
    data = {"byte": ("manual.jsonl", ["topic"], []), "section": ("sections.jsonl", ["topic"], [])}
    digits = {
        "digit-mlp": ("digits.parquet", ["digit", "ink"], []),
        "digit-vit": ("digits_images.parquet", ["digit", "ink"], [1, 16, 16]),
    }
    checked = 0
    for config in sorted((home / "demo" / "published").glob("*/*/config.json")):
        model, published = config.parts[-3:-1]
        match = [key for key in reported if key[0] == model and published.startswith(f"{key[1]}-{key[2]}-")]
        if not match:
            continue
        file, slices, shape = digits.get(model) or data[model.split("-")[0]]
        measured = check(config.parent, zoo / "data" / file, "test", slices, shape)
        expected = reported[max(match, key=lambda key: len(key[2]))]
        assert measured["values"] == pytest.approx(expected, rel=1e-4, abs=1e-6), published
        checked += 1
    assert checked >= 6


def test_a_second_run_has_nothing_to_do(home, ended):
    again = prunefleet(home, "plan", "examples/demo/fleet.yaml", "--detailed-exitcode")
    assert again.returncode == 0, again.stdout + again.stderr

"""Which holes a version has, by the table of floors."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from orchestrator.care.doctor import installed_versions
from orchestrator.probes.checks import State
from orchestrator.probes.versions import FLOORS, check_versions

ROOT = Path(__file__).parents[2]


def look(package, version):
    (check,) = check_versions({package: version})
    return check


@pytest.mark.parametrize(
    ("package", "version", "holes"),
    [
        ("ray", "2.60.0", []),
        ("ray", "2.54", []),
        ("ray", "2.53.1", ["CVE-2026-27482"]),
        ("ray", "2.51.0", ["CVE-2026-27482", "CVE-2025-62593"]),
        ("torch", "2.13.0+cpu", []),
        ("torch", "2.10.0rc1", ["CVE-2026-24747"]),
        ("torch", "2.5.1+cu124", ["CVE-2026-24747", "CVE-2025-32434"]),
        ("transformers", "5.2.0", ["CVE-2026-4372", "CVE-2026-5241"]),
        ("transformers", "4.50.0", ["CVE-2026-5241", "CVE-2026-1839"]),
        ("pyarrow", "23.0.0", ["CVE-2026-25087"]),
        ("pyarrow", "14.0.1", []),
        ("pyarrow", "13", ["CVE-2023-47248"]),
        ("mlflow", "3.9", ["CVE-2026-2614", "CVE-2026-2651"]),
    ],
)
def test_the_known_holes_of_a_version(package, version, holes):
    check = look(package, version)
    assert re.findall(r"CVE-\d+-\d+", check.seen) == holes
    if holes:
        assert "known holes" in check.seen
        assert check.state is State.BROKEN
        assert check.advice.startswith(f"Install {package}>=")


def test_a_version_below_the_floor_is_refused_even_without_a_hole():
    check = look("pyarrow", "14.0.1")
    assert check.state is State.BROKEN
    assert "older than 23.0.1" in check.seen


def test_what_a_version_lacks_is_said():
    assert "token authentication" in look("ray", "2.51").follows


def test_what_is_no_version_is_a_warning():
    assert look("ray", "from the office").state is State.WARNING


def test_what_is_not_installed_is_not_mentioned():
    assert check_versions({}) == ()
    assert check_versions({"requests": "0.1"}) == ()


def test_every_floor_closes_every_hole_that_it_names():
    for floor in FLOORS:
        assert all(Version(hole.below) <= Version(floor.version) for hole in floor.holes)
        assert all(Version(hole.since) < Version(hole.below) for hole in floor.holes)
    assert len({floor.package for floor in FLOORS}) == len(FLOORS)


def test_the_package_itself_asks_for_no_less():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {Requirement(text).name: Requirement(text) for text in project["dependencies"]}
    for floor in FLOORS:
        if floor.package in asked:
            lowest = next(part.version for part in asked[floor.package].specifier if part.operator == ">=")
            assert Version(lowest) >= Version(floor.version), floor.package


def test_what_is_installed_here_has_no_known_hole():
    installed = installed_versions()
    assert {"ray", "torch", "pyarrow", "transformers"} <= set(installed)
    assert {check.state for check in check_versions(installed)} == {State.OK}

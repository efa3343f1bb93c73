"""What is built from the sources holds all that it needs, nothing else, and works where no checkout is."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The files that git would hand out, copied, so that building leaves nothing in the checkout."""
    root = tmp_path_factory.mktemp("sources")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        source = REPOSITORY / name
        if source.is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(source.read_bytes())
    return root


def build(sources, kind, into):
    """The path of what setuptools built."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{kind}", str(into)],
        cwd=sources, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return into / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory):
    return build(sources, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder that holds the wheel's content, and runs its command away from the checkout."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)

    def run(*arguments, cwd):
        program = "import orchestrator, sys; from orchestrator.cli import main; print(orchestrator.__file__, file=sys.stderr); main()"
        return subprocess.run(
            [sys.executable, "-P", "-c", program, *map(str, arguments)],
            cwd=cwd, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, timeout=240,
        )  # fmt: skip

    return site, run


def test_the_wheel_holds_both_packages_with_their_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"orchestrator", "tasks"}
    assert {"orchestrator/py.typed", "tasks/py.typed", "orchestrator/reports/templates/report.html.j2"} <= {
        *names
    }
    sources = {
        path.relative_to(REPOSITORY).as_posix()
        for package in ("orchestrator", "tasks")
        for path in (REPOSITORY / package).rglob("*.py")
    }
    assert sources == {name for name in names if name.endswith(".py")}


def test_the_source_distribution_builds_the_same_wheel(sources, wheel, tmp_path):
    archive = build(sources, "sdist", tmp_path)
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    [root] = (tmp_path / "unpacked").iterdir()
    again = build(root, "wheel", tmp_path)
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        contents = [
            {name: archive.read(name) for name in archive.namelist() if not name.endswith("RECORD")}
            for archive in (one, other)
        ]
    assert contents[0] == contents[1]


def test_the_installed_command_makes_a_first_report_without_the_checkout(installed, parts, tmp_path):
    import shutil

    site, run = installed
    shutil.copytree(parts / "mlp", tmp_path / "models" / "mlp" / "1")
    assert str(site) in run("--version", cwd=tmp_path).stderr
    assert run("init", "models", cwd=tmp_path).returncode == 0
    done = run("run", "fleet.yaml", "--backend", "local", "--cache", tmp_path / "cache", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "1 done" in done.stderr
    assert run("report", "--to", "report.html", cwd=tmp_path).returncode == 0
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_help_loads_nothing_heavy(installed, tmp_path):
    site, _ = installed
    program = (
        "import sys; from orchestrator.cli import app; "
        "heavy = {'torch', 'ray', 'pyarrow', 'numpy', 'boto3', 'transformers', 'duckdb', 'pydantic', 'scipy'}; "
        "print(sorted(heavy & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.strip() == "[]", done.stderr[-2000:]

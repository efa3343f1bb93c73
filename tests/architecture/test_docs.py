"""The documentation builds without a warning, leads nowhere that is not there, and shows nothing that does not work."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
import typer.main

from orchestrator.cli import app
from orchestrator.spec import load_fleet
from orchestrator.tables import schemas

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DOCS = REPOSITORY / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *REPOSITORY.glob("*.md"), *(REPOSITORY / "deploy").rglob("*.md")])
PAGES = [page for page in PAGES if not {"_build", "reference"} & {*page.relative_to(REPOSITORY).parts}]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")
GENERATED = (
    "reference/commands.md",
    "reference/fleet-file.md",
    "reference/metrics.md",
    "reference/errors.md",
)
COMMANDS = typer.main.get_command(app).commands


def fences(language: str) -> list[tuple[str, str]]:
    """(page, text) of each block of code in one language."""
    return [
        (page.relative_to(REPOSITORY).as_posix(), text)
        for page in PAGES
        for found, text in FENCE.findall(page.read_text())
        if found == language
    ]


def calls() -> list[tuple[str, str]]:
    """(page, line) of each `prunefleet …` in a block of shell."""
    found = []
    for page, text in fences("sh"):
        for line in text.replace("\\\n", " ").splitlines():
            match = re.search(r"(?:^|\s|/)(prunefleet\s.*)", line.split("   #")[0])
            if match and not line.lstrip().startswith("#"):
                found.append((page, match[1].strip()))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_every_link_leads_somewhere(page):
    for target in LINK.findall(page.read_text()):
        if "://" in target or target.startswith("mailto:"):
            continue
        if any(target.endswith(name) for name in GENERATED):
            continue
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize(("page", "text"), fences("yaml"))
def test_every_whole_fleet_file_is_valid_and_every_part_is_yaml(page, text):
    import yaml

    assert yaml.safe_load(text) is not None, page
    if re.search(r"^version: 1$", text, re.MULTILINE):
        load_fleet(text, page, PurePosixPath("/home"))


@pytest.mark.parametrize(("page", "line"), calls())
def test_every_command_line_is_one_that_the_program_takes(page, line):
    words = shlex.split(re.split(r"\s(?:\||&&|;|>)\s", line)[0])[1:]
    if words[0].startswith("-"):
        return
    assert words[0] in COMMANDS, f"{page}: {line}"
    command = COMMANDS[words[0]]
    options = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    for word in words[1:]:
        if word.startswith("--"):
            assert word.split("=")[0] in options, f"{page}: {line}: {word}"


@pytest.mark.parametrize("name", schemas.TABLES)
def test_every_table_and_column_is_described(name):
    text = (DOCS / "tables.md").read_text()
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    [section] = [part for part in sections if part.startswith(f"`{name}`")]
    told = set(
        re.findall(
            r"`(\w+)`",
            " ".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `")),
        )
    )
    assert told == set(schemas.TABLES[name].names) - set(schemas.IDENTITY)
    assert set(schemas.IDENTITY) <= set(re.findall(r"`(\w+)`", sections[0]))


def test_the_documentation_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(tmp_path / "html")],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "html" / "reference" / "fleet-file.html").is_file()
    start = (tmp_path / "html" / "start.html").read_text()
    assert "Your own models" in start

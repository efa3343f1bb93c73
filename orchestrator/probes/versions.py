"""Pure. Versions of libraries below which holes are known, as data, and what of it concerns this installation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from orchestrator.probes.checks import Check, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """Something in a library that an attacker can use."""

    id: str
    below: str
    """The first version without it."""
    what: str
    since: str = "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The oldest version of a library that prunefleet is to run with."""

    package: str
    version: str
    holes: tuple[Hole, ...]
    needs: str = ""
    """What else is missing below the floor."""


FLOORS: tuple[Floor, ...] = (
    Floor(
        package="ray",
        version="2.54",
        needs="token authentication (2.52)",
        holes=(
            Hole(id="CVE-2026-27482", below="2.54", what="a web page can delete jobs through the dashboard"),
            Hole(id="CVE-2025-62593", below="2.52", what="a web page can run code through a local dashboard"),
        ),
    ),
    Floor(
        package="torch",
        version="2.10",
        holes=(
            Hole(
                id="CVE-2026-24747",
                below="2.10",
                what="a checkpoint corrupts memory in spite of weights_only",
            ),
            Hole(id="CVE-2025-32434", below="2.6", what="a checkpoint runs code in spite of weights_only"),
        ),
    ),
    Floor(
        package="transformers",
        version="5.3",
        holes=(
            Hole(
                id="CVE-2026-4372",
                since="4.56",
                below="5.3",
                what="a model's config.json runs code when it is loaded",
            ),
            Hole(id="CVE-2026-5241", below="5.3", what="a LightGlue config allows itself to run code"),
            Hole(id="CVE-2026-1839", below="5.0", what="a checkpoint's random state runs code"),
        ),
    ),
    Floor(
        package="pyarrow",
        version="23.0.1",
        holes=(
            Hole(
                id="CVE-2026-25087",
                since="15",
                below="23.0.1",
                what="a file makes the reader use freed memory",
            ),
            Hole(id="CVE-2023-47248", below="14.0.1", what="a file runs code when it is read"),
        ),
    ),
    Floor(
        package="compressed-tensors",
        version="0.15",
        holes=(Hole(id="transformers#46342", below="0.15", what="a model's sparsity_config runs a file"),),
    ),
    Floor(
        package="mlflow",
        version="3.10",
        holes=(
            Hole(id="CVE-2026-2614", below="3.10", what="anybody reads files of the server"),
            Hole(id="CVE-2026-2651", below="3.10", what="anybody overwrites artifacts of others"),
            Hole(id="CVE-2026-2393", below="3.9", what="a webhook reaches addresses inside"),
            Hole(id="CVE-2025-11201", below="3.0", what="a model's path runs code on the server"),
        ),
    ),
    Floor(
        package="keras",
        version="3.13.2",
        holes=(
            Hole(id="CVE-2026-1462", below="3.13.2", what="a TFSMLayer runs code"),
            Hole(id="CVE-2025-9905", below="3.11.3", what="an .h5 file runs code in spite of safe_mode"),
            Hole(id="CVE-2025-1550", below="3.9", what="a model's config runs code"),
        ),
    ),
    Floor(
        package="vllm",
        version="0.18",
        holes=(
            Hole(id="CVE-2026-27893", below="0.18", what="a model runs code when it is loaded"),
            Hole(id="CVE-2026-22807", below="0.18", what="a model runs code when it is loaded"),
            Hole(id="CVE-2025-66448", below="0.18", what="a model's config runs code"),
        ),
    ),
    Floor(
        package="picklescan",
        version="0.0.31",
        holes=(Hole(id="CVE-2025-10155", below="0.0.31", what="a pickle hides from the scan"),),
    ),
)
"""Of what prunefleet depends on, and of what often stands beside it. Checked where it is installed."""


def check_versions(installed: Mapping[str, str]) -> tuple[Check, ...]:
    """One line for each library with a floor that is installed (`installed`: package -> version)."""
    return tuple(_check(floor, installed[floor.package]) for floor in FLOORS if floor.package in installed)


def _check(floor: Floor, installed: str) -> Check:
    name, advice = f"{floor.package} {installed}", f"Install {floor.package}>={floor.version}."
    try:
        version = Version(installed)
    except InvalidVersion:
        seen = f"{installed!r} is no version that can be compared with {floor.version}"
        return Check(area="versions", name=name, state=State.WARNING, seen=seen, advice=advice)
    if version >= Version(floor.version):
        return Check(
            area="versions",
            name=name,
            state=State.OK,
            seen=f"no known hole; {floor.version} is the oldest to use",
        )
    open_ = [hole for hole in floor.holes if Version(hole.since) <= version < Version(hole.below)]
    seen = f"older than {floor.version}"
    if open_:
        seen += ": known holes " + "; ".join(f"{hole.id} ({hole.what})" for hole in open_)
    lacks = f"It lacks {floor.needs}. " if floor.needs else ""
    follows = f"{lacks}A hostile model, file or page may act through it."
    return Check(area="versions", name=name, state=State.BROKEN, seen=seen, follows=follows, advice=advice)

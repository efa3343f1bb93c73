"""Effects. Reads every byte that a digest vouches for, and names what is damaged, missing or not the store's own."""

from __future__ import annotations

import itertools
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.artifacts import LISTING, ArtifactFile, artifact_files, artifact_key, differences
from orchestrator.care.damages import Verification, Watch
from orchestrator.care.recordchecks import check_nights, check_proposals
from orchestrator.durable import sha256_of
from orchestrator.errors import Damaged, NoSuchVersion, NotFound, RegistryError
from orchestrator.identity import digest, digest_bytes
from orchestrator.inflight import mapped
from orchestrator.names import is_sha256, problem_of_part, problem_of_path
from orchestrator.ports import ObjectStore, Outlet, Stat
from orchestrator.promotion.signing import problem_of_seal, verifying_key
from orchestrator.registries.opening import open_outlet
from orchestrator.spec import Fleet
from orchestrator.tables import results
from orchestrator.tables.listing import PREFIX, unit_of
from orchestrator.tables.schemas import RESULT_TABLES

THREADS = 8
IN_MEMORY = 8 << 20
"""Bytes; what is larger is read through a file."""

_MOVE = re.compile(r"promotions/[^/]+-([0-9a-f]{16})\.json\Z")
_REMAKE = "delete it, and the next run makes it again"


def verify(store: ObjectStore, fleet: Fleet | None = None, watch: Watch = lambda _: None) -> Verification:
    """Re-checks every digest; with a fleet, every published version too. `watch` is called after each object.

    Errors: those of the store. Nothing is changed.
    """
    done = Verification()
    pointing = _check_results(store, done, watch)
    with tempfile.TemporaryDirectory(prefix="pf-") as scratch:
        _check_artifacts(store, pointing, Path(scratch), done, watch)
        _check_datasets(store, Path(scratch), done, watch)
    moves = _check_moves(store, done, watch)
    check_nights(store, done, watch)
    check_proposals(store, fleet.promotion if fleet else None, done, watch)
    if fleet is not None:
        _check_published(store, fleet, moves, done, watch)
    return done


def _check_results(store: ObjectStore, done: Verification, watch: Watch) -> dict[str, str]:
    """Every result; artifact digest -> the key of a result that points to it."""

    def known() -> Iterator[tuple[Stat, str, str]]:
        for found in store.list(PREFIX):
            pair = unit_of(found.key)
            if pair is None:
                done.foreign.append(found.key)
            else:
                yield found, *pair

    def read(item: tuple[Stat, str, str]) -> tuple[Stat, str, tuple[str, ...]]:
        found, task, unit = item
        try:
            result = results.read(store, task, unit)
        except Damaged as error:
            return found, str(error), ()
        except NotFound:
            return found, "", ()
        rows = result.rows("artifacts") if "artifacts" in RESULT_TABLES[task] else []
        return found, "", tuple(str(row["digest"]) for row in rows)

    pointing: dict[str, str] = {}
    for found, problem, digests in mapped(read, known(), THREADS):
        done.count("result", found.bytes)
        if problem:
            done.damaged("result", found.key, problem, f"{_REMAKE}.")
        pointing.update(dict.fromkeys(digests, found.key))
        watch(done)
    return pointing


def _check_artifacts(
    store: ObjectStore, pointing: Mapping[str, str], scratch: Path, done: Verification, watch: Watch
) -> None:
    """Every file of every artifact; and every artifact that a result points to is there."""
    seen = set()

    def known() -> Iterator[Stat]:
        for found in store.list("artifacts/"):
            parts = found.key.split("/")
            if len(parts) > 2 and is_sha256(parts[1]):
                yield found
            else:
                done.foreign.append(found.key)

    for name, group in itertools.groupby(known(), key=lambda found: found.key.split("/")[1]):
        found = {one.key.split("/", 2)[2]: one for one in group}
        seen.add(name)
        if LISTING not in found and name not in pointing:
            done.unfinished.append(f"artifacts/{name}")
            continue
        _check_artifact(store, name, found, pointing.get(name, ""), scratch, done, watch)
    for name in sorted(pointing.keys() - seen):
        _lost_artifact(name, pointing[name], "it is not there", done)


def _check_artifact(
    store: ObjectStore,
    name: str,
    found: Mapping[str, Stat],
    result: str,
    scratch: Path,
    done: Verification,
    watch: Watch,
) -> None:
    done.count("artifact", 0)
    try:
        files = artifact_files(store, name)
    except (Damaged, NotFound) as error:
        _lost_artifact(name, result, str(error), done)
        return
    done.foreign.extend(found[path].key for path in sorted(found.keys() - files.keys() - {LISTING}))

    def look(item: tuple[str, ArtifactFile]) -> tuple[str, ArtifactFile, str]:
        path, file = item
        there = found.get(path) or store.stat(artifact_key(name, path))
        if there is None:
            return path, file, f"it is not there, although {LISTING} names it"
        if there.bytes != file.bytes:
            return path, file, f"it has {there.bytes} bytes instead of {file.bytes}"
        return path, file, _digest_problem(store, artifact_key(name, path), file.bytes, file.sha256, scratch)

    for path, file, problem in mapped(look, files.items(), THREADS):
        done.count("file", file.bytes)
        if problem:
            key = artifact_key(name, path)
            done.damaged("artifact", key, problem, _advice_for(name, result))
        watch(done)


def _lost_artifact(name: str, result: str, problem: str, done: Verification) -> None:
    told = f"{problem}; {result} points to it" if result else problem
    done.damaged("artifact", f"artifacts/{name}", told, _advice_for(name, result))


def _advice_for(name: str, result: str) -> str:
    if result:
        return f"delete {result} and what is left of artifacts/{name}, and the next run makes it again."
    return f"delete artifacts/{name}: no result points to it."


def _check_datasets(store: ObjectStore, scratch: Path, done: Verification, watch: Watch) -> None:
    def look(found: Stat) -> tuple[Stat, str]:
        name = found.key.removeprefix("data/")
        return found, _digest_problem(store, found.key, found.bytes, name, scratch)

    def known() -> Iterator[Stat]:
        for found in store.list("data/"):
            if is_sha256(found.key.removeprefix("data/")):
                yield found
            else:
                done.foreign.append(found.key)

    for found, problem in mapped(look, known(), THREADS):
        done.count("dataset", found.bytes)
        if problem:
            advice = "delete it, and the next run takes it again from the fleet's own file."
            done.damaged("dataset", found.key, problem, advice)
        watch(done)


def _digest_problem(store: ObjectStore, key: str, size: int, expected: str, scratch: Path) -> str:
    """How an object's SHA-256 differs; empty if it does not. Large ones go through a file, which is removed."""
    try:
        if size <= IN_MEMORY:
            found = digest_bytes(store.get(key))
        else:
            path = scratch / digest(key)
            try:
                store.download(key, path)
                found = sha256_of(path)
            finally:
                path.unlink(missing_ok=True)
    except NotFound:
        return "it is not there"
    except Damaged as error:
        return str(error)
    return "" if found == expected else f"its SHA-256 is {found} instead of {expected}"


def _check_moves(store: ObjectStore, done: Verification, watch: Watch) -> list[dict[str, Any]]:
    """The records of alias moves, each held against the digest in its name; those that are sound, in order."""

    def read(found: Stat) -> tuple[Stat, dict[str, Any] | None]:
        try:
            row = json.loads(store.get(found.key))
        except (ValueError, RecursionError, Damaged):
            return found, None
        match = _MOVE.match(found.key)
        is_sound = isinstance(row, dict) and match and digest(row)[:16] == match[1]
        return found, row if is_sound else None

    sound = []
    for found, row in mapped(read, store.list("promotions/"), THREADS):
        done.count("record", found.bytes)
        if row is None:
            advice = "compare it with the registry's alias and a backup; nothing makes it again."
            done.damaged("record", found.key, "it is not what was recorded", advice)
        else:
            sound.append(row)
        watch(done)
    return sound


def _check_published(
    store: ObjectStore, fleet: Fleet, moves: list[dict[str, Any]], done: Verification, watch: Watch
) -> None:
    """Every version that an alias was moved to, against its artifact; one that is gone matters if its alias is still there."""
    latest = {(row.get("registry_url"), row["model"], row["alias"]): row for row in moves}
    versions = {(row.get("registry_url"), row["model"], row["published_version"]): row for row in moves}
    key = verifying_key()
    current = {(row.get("registry_url"), row["model"], row["published_version"]) for row in latest.values()}
    opened = [open_outlet(name, fleet.registries[name]) for name in _targets(fleet, moves)]
    outlets = {outlet.url: outlet for outlet in opened}
    for place, row in versions.items():
        outlet = outlets.get(str(row.get("registry_url")))
        if outlet is None:
            continue
        done.count("published", 0)
        problem = _published_problem(store, outlet, row, key, is_current=place in current)
        if problem:
            subject = f"{row['registry']}/{row['model']}@{row['published_version']}"
            advice = "remove that version; the next run publishes it again from the store."
            done.damaged("published", subject, problem, advice)
        watch(done)


def _targets(fleet: Fleet, moves: list[dict[str, Any]]) -> set[str]:
    """Names of the fleet's registries to which this fleet moved something."""
    return {row["registry"] for row in moves if row.get("fleet") == fleet.name} & fleet.registries.keys()


def _published_problem(
    store: ObjectStore, outlet: Outlet, row: Mapping[str, Any], key: Path | None, *, is_current: bool
) -> str:
    model, version = str(row["model"]), str(row["published_version"])
    if why := problem_of_path(model) or problem_of_part(version):
        return f"its record names a version that cannot be one: {why}"
    try:
        files = artifact_files(store, str(row["artifact_digest"]))
    except (NotFound, Damaged) as error:
        return f"it cannot be compared: {error}"
    try:
        with outlet.opened(model, version) as directory:
            lines = differences(directory, files, outlet.adds)
            if key is not None and not lines:
                seal = problem_of_seal(directory, key, {path: file.sha256 for path, file in files.items()})
                lines = [seal] if seal else []
    except NoSuchVersion:
        return "it is gone, and an alias was moved to it last" if is_current else ""
    except (OSError, RegistryError) as error:
        return f"it cannot be read: {error}"
    return "; ".join(lines[:5])

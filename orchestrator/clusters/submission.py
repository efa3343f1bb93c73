"""Effects. A run sent to Ray clusters: its fleet file goes into the store, one job to each cluster, named after both."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from orchestrator import runs
from orchestrator.addresses import is_loopback
from orchestrator.clusters import runboard
from orchestrator.clusters.jobs import OVER, Jobs
from orchestrator.errors import NotFound, SpecError, UnknownRun, UsageError
from orchestrator.ports import ObjectStore
from orchestrator.schedule.window import StopAt
from orchestrator.spec import Fleet, load_fleet
from orchestrator.specs.clusters import ClusterSpec

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
ENTRYPOINT_MODULE = "orchestrator.cli"
MOST_EPOCHS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of one cluster's job."""

    cluster: str
    submission_id: str
    is_new: bool
    """False where it runs already, or has ended well."""


def submission_key(run_id: str) -> str:
    """The run's fleet file as it was submitted, and from which directory."""
    return f"runs/{run_id}/submission.json"


def limits_key(run_id: str) -> str:
    """After which moment a run starts nothing more, and why, as the last `submit` said."""
    return f"runs/{run_id}/limits.json"


def record(store: ObjectStore, run_id: str, text: str, base: PurePosixPath, name: str) -> None:
    """Puts the fleet file where the clusters find it. Errors: UsageError, if the run is another fleet's."""
    if not RUN_ID.match(run_id):
        raise UsageError(
            f"{run_id!r} is no run id: letters, digits, dots, dashes and underscores, at most 64"
        )
    body = {"fleet": text, "base": str(base), "name": name}
    if store.put_if_absent(submission_key(run_id), json.dumps(body).encode()):
        return
    if runboard.read_object(store, submission_key(run_id)) != body:
        raise UsageError(
            f"run {run_id} was submitted with another fleet file, or from another directory; leave --run out for a new run"
        )


def recorded(store: ObjectStore, run_id: str) -> tuple[Fleet, str]:
    """The fleet of a submitted run, and its text. Errors: UnknownRun, SpecError."""
    try:
        match json.loads(store.get(submission_key(run_id))):
            case {"fleet": str(text), "base": str(base), "name": str(name)}:
                return load_fleet(text, name, PurePosixPath(base)), text
    except NotFound:
        raise UnknownRun(f"run {run_id} was not submitted to {store.url}") from None
    except ValueError:
        pass
    raise SpecError(f"{submission_key(run_id)} in {store.url} is not what `prunefleet submit` writes")


def limit(store: ObjectStore, run_id: str, stop: StopAt | None) -> None:
    """Says when every cluster of the run is to start nothing more; what an earlier submission said of it is over."""
    store.put(limits_key(run_id), json.dumps({"stop": asdict(stop) if stop else None}).encode())


def limited(store: ObjectStore, run_id: str) -> StopAt | None:
    """When a cluster that joins the run is to start nothing more. Errors: SpecError."""
    try:
        match json.loads(store.get(limits_key(run_id))):
            case {"stop": None}:
                return None
            case {"stop": {"at": int() | float() as at, "reason": str(reason)}}:
                return StopAt(at=float(at), reason=reason)
    except NotFound:
        return None
    except ValueError:
        pass
    raise SpecError(f"{limits_key(run_id)} in {store.url} is not what `prunefleet submit` writes")


def out_of_reach(fleet: Fleet, text: str, cluster: str) -> list[str]:
    """What the fleet file names and a cluster on other machines cannot read: everything that is relative to this directory."""
    if is_loopback(urlsplit(fleet.clusters[cluster].address).hostname or ""):
        return []
    as_written = load_fleet(text, "fleet file", PurePosixPath())
    paths = {
        f"registries.{name}.path": spec.path
        for name, spec in as_written.registries.items()
        if hasattr(spec, "path")
    }
    paths |= {f"datasets.{name}.path": spec.path for name, spec in as_written.datasets.items()}
    if "://" not in as_written.store.url:
        paths["store"] = as_written.store.url
    return [
        f"{key}: {path} is relative to this machine's directory, and cluster {cluster} is elsewhere; "
        "use an absolute path of a file system that both have, or object storage"
        for key, path in paths.items()
        if "://" not in path and not path.startswith("/")
    ]


def entrypoint(spec: ClusterSpec, run_id: str, cluster: str, fleet: Fleet) -> str:
    """The command that carries out a cluster's part there."""
    store = fleet.store
    words = [spec.python, "-m", ENTRYPOINT_MODULE, "join", run_id, "--cluster", cluster, "--store", store.url]
    for option, value in (("--endpoint", store.endpoint), ("--region", store.region)):
        if value:
            words += [option, value]
    return shlex.join(words)


def send(
    jobs: Jobs, store: ObjectStore, run_id: str, cluster: str, command: str, runtime_env: Mapping[str, object]
) -> Sent:
    """One job for the run on this cluster; one that is there already is left alone, unless it has ended and the run has not."""
    metadata = {"prunefleet_run": run_id, "prunefleet_cluster": cluster}
    for epoch in range(1, MOST_EPOCHS):
        name = submission_id(run_id, cluster, epoch)
        if jobs.submit(name, command, runtime_env, metadata):
            return Sent(cluster=cluster, submission_id=name, is_new=True)
        if jobs.status(name) not in OVER or runs.has_ended(store, run_id):
            return Sent(cluster=cluster, submission_id=name, is_new=False)
    raise UsageError(f"run {run_id} was started {MOST_EPOCHS} times on {cluster}; start a new one")


def latest(jobs: Jobs, run_id: str, cluster: str) -> str:
    """The submission id of the run's newest job on a cluster; empty if there is none."""
    found = ""
    for epoch in range(1, MOST_EPOCHS):
        name = submission_id(run_id, cluster, epoch)
        if not jobs.status(name):
            break
        found = name
    return found


def submission_id(run_id: str, cluster: str, epoch: int) -> str:
    """Says which run, where, and the how-manieth try; a cluster takes each once."""
    return f"{run_id}-{cluster}-{epoch}"


def packaged() -> tuple[str, bytes]:
    """This installation's own code as a zip file whose bytes depend on nothing else, and its name."""
    root = Path(__file__).resolve().parents[2]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for top in ("orchestrator", "tasks") for path in (root / top).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.writestr(zipfile.ZipInfo(f"prunefleet/{path.relative_to(root)}"), path.read_bytes())
    data = buffer.getvalue()
    return f"_ray_pkg_{sha256(data).hexdigest()[:16]}.zip", data


def chosen(fleet: Fleet, names: Sequence[str]) -> dict[str, ClusterSpec]:
    """The clusters that were asked for, or all. Errors: UsageError."""
    if not fleet.clusters:
        raise UsageError("the fleet file names no clusters; `run` works on this machine, or at --address")
    unknown = [name for name in names if name not in fleet.clusters]
    if unknown:
        raise UsageError(f"there is no cluster {unknown[0]!r}; known: {', '.join(fleet.clusters)}")
    return {name: spec for name, spec in fleet.clusters.items() if not names or name in names}


def jobs_of(fleet: Fleet, name: str) -> Jobs:
    """The way to a cluster, after a look at its door. Errors: NotPermitted, Unreachable, UsageError."""
    jobs = Jobs.of(name, fleet.clusters[name], os.environ)
    jobs.check_door(os.environ)
    return jobs

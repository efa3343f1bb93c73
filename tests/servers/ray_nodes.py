"""Effects. A Ray cluster of several nodes on loopback whose processes can be found, stopped and killed one by one.

Each node is one `ray start --block` in a session of its own, with a directory that no other cluster uses; a process is
the cluster's if it descends from one of those or has a file open under that directory. Nothing of Ray runs in this process.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

# Told to keep to loopback, `ray start` refuses a second node; its daemons do not, and the setting stays for them.
START = "from ray.scripts.scripts import main; main()"
NEXT_START = f"""
from ray._private import ray_constants, services
ray_constants.ENABLE_RAY_CLUSTER = True
services.get_node_ip_address = lambda address=None: "127.0.0.1"
{START}
"""
SETTINGS = ("--include-log-monitor", "false", "--disable-usage-stats", "--block")
STORE_BYTES = 80 * 2**20
STARTS = 4
PATIENCE = 120.0  # seconds until a node must be there, on a busy machine
_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
_STARTED = "Ray runtime started"


class NoStart(Exception):
    """A node did not come up."""


@dataclass(frozen=True, slots=True)
class Node:
    """One `ray start` and what it has started."""

    starter: subprocess.Popen[bytes]
    log: Path
    cpus: int

    def processes(self) -> list[psutil.Process]:
        """All that lives of it, its workers with it."""
        try:
            root = psutil.Process(self.starter.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def named(self, name: str) -> list[psutil.Process]:
        """Its daemons of this name, for example `raylet`."""
        return [process for process in self.processes() if _name(process) == name]

    @property
    def is_alive(self) -> bool:
        """Whether its raylet runs."""
        return self.starter.poll() is None and bool(self.named("raylet"))

    def workers(self) -> list[psutil.Process]:
        """The processes in which tasks run or may run."""
        found = []
        for raylet in self.named("raylet"):
            with suppress(psutil.NoSuchProcess):
                found += [child for child in raylet.children() if _is_worker(child)]
        return found

    def end(self) -> None:
        """Kills all of it and waits for it."""
        end(self.processes())
        self.starter.wait()


@dataclass(slots=True)
class RayNodes:
    """A head without slots and nodes with some. `environment` is what those who join it need."""

    folder: Path
    environment: dict[str, str]
    cpus: int
    count: int
    address: str = ""
    head: Node | None = None
    nodes: list[Node] = field(default_factory=list)
    dashboard: str = ""
    """Where its Jobs API is to be, host:port; empty for a cluster without one."""

    def mend(self) -> None:
        """Starts a node for each that is missing; a new head, with new nodes, if the head is missing."""
        if self.head is None or not self.head.is_alive or not self.head.named("gcs_server"):
            self.stop()
            self.head = self._node(head=True)
        for node in [node for node in self.nodes if not node.is_alive]:
            node.end()
            self.nodes.remove(node)
        missing = self.count - len(self.nodes)
        with ThreadPoolExecutor(max(1, self.count)) as pool:
            self.nodes += pool.map(lambda _: self._node(head=False), range(missing))

    def workers(self) -> list[psutil.Process]:
        """Of all nodes."""
        return [worker for node in self.nodes for worker in node.workers()]

    def kill_head(self) -> None:
        """SIGKILL to what makes the head: no other head knows of this one's cluster."""
        assert self.head is not None
        for name in ("gcs_server", "raylet"):
            for daemon in self.head.named(name):
                daemon.kill()

    def stop(self) -> None:
        """Ends every process of the cluster and waits for it."""
        for node in (*self.nodes, *([self.head] if self.head else [])):
            node.end()
        self.nodes.clear()
        self.head = None
        end(self.left())

    def left(self) -> list[psutil.Process]:
        """Processes on this machine that are, or were, part of this cluster."""
        return using(self.folder)

    def _node(self, *, head: bool) -> Node:
        for _ in range(STARTS):
            node = self._begin(head=head, place=Path(tempfile.mkdtemp(prefix="n", dir=self.folder)))
            if _comes_up(node):
                return node
            node.end()
        raise NoStart(f"ray start: {node.log.read_text()[-2000:]}")

    def _begin(self, *, head: bool, place: Path) -> Node:
        if head:
            self.address = f"127.0.0.1:{free_port()}"
        cpus = 0 if head and self.count else self.cpus
        options = {
            "--node-ip-address": "127.0.0.1",
            "--num-cpus": cpus,
            "--object-store-memory": STORE_BYTES,
            "--temp-dir": place,
        }
        if head:
            options |= {"--port": self.address.rpartition(":")[2], "--ray-client-server-port": free_port()}
            options |= {"--include-dashboard": "true" if self.dashboard else "false"}
            options |= {"--dashboard-port": self.dashboard.rpartition(":")[2] or free_port()}
            options |= {"--dashboard-agent-listen-port": free_port()} if self.dashboard else {}
        else:
            options |= {"--address": self.address}
        words = [str(word) for option in options.items() for word in option]
        code, first = (START, "--head") if head else (NEXT_START, "--verbose")
        log = place / "start.log"
        with log.open("wb") as out:
            starter = subprocess.Popen(
                [sys.executable, "-c", code, "start", first, *words, *SETTINGS],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Node(starter, log, cpus)


@contextmanager
def serve(
    *, count: int = 2, cpus: int = 1, environment: Mapping[str, str] | None = None, dashboard: str = ""
) -> Iterator[RayNodes]:
    """A cluster with `count` nodes of `cpus` slots each beside its head; nothing is left of it afterwards.

    Without nodes the head has the slots; with `dashboard` (127.0.0.1:port) it has a Jobs API.
    """
    folder = Path(tempfile.mkdtemp(prefix="rn-"))  # short: it holds Unix sockets, whose paths have a limit
    settings = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # every listener on loopback
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_task_oom_retries": "0",
        "OMP_NUM_THREADS": "1",
    }
    cluster = RayNodes(folder, {**settings, **(environment or {})}, cpus, count, dashboard=dashboard)
    try:
        cluster.mend()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def using(folder: Path) -> list[psutil.Process]:
    """Processes but this one that name the directory in their command, or have a file open in it."""
    return [each for each in psutil.process_iter() if each.pid != os.getpid() and _names(each, str(folder))]


def free_port() -> int:
    """A port on loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end(processes: list[psutil.Process]) -> None:
    """SIGKILL to all of these, also to what is stopped, and waits until they are gone."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(processes, timeout=PATIENCE)


def until(holds: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Whether it holds within so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _comes_up(node: Node) -> bool:
    def is_decided() -> bool:
        return _STARTED in node.log.read_text(errors="replace") or node.starter.poll() is not None

    return until(is_decided) and node.is_alive


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return process.name() if process.status() != psutil.STATUS_ZOMBIE else ""
    return ""


def _is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        title = " ".join(process.cmdline())
        return title.startswith("ray::") and not title.startswith(_AGENTS)
    return False


def _names(process: psutil.Process, folder: str) -> bool:
    places: list[str] = []
    with suppress(psutil.Error):
        places += process.cmdline()
    with suppress(OSError):
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                places.append(os.readlink(link))
    return any(folder in place for place in places)

"""Effects. The services of deploy/compose/compose.yaml as processes of this machine, on loopback, with other ports and places.

Commands, entrypoints, environment and configuration are the file's own. What a container would have and a process has not is
replaced, and listed by `Stack.replaced`: names of hosts, ports, mounted paths. Ray is told to keep to loopback besides.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml
from servers.ray_nodes import NEXT_START, SETTINGS, START, end, free_port, until, using

COMPOSE = Path(__file__).resolve().parents[2] / "deploy" / "compose"
ENTRYPOINTS = {"prometheus": ["prometheus"], "exporter": ["prunefleet"]}
"""Of images whose entrypoint the compose file leaves as it is."""
_STARTED = "Ray runtime started"


@dataclass
class Stack:
    """What runs, and where."""

    folder: Path
    services: Mapping[str, Any]
    replaced: dict[str, str]
    """Text of the compose file -> what stands for it here."""
    ports: Mapping[str, int]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def words(self, service: str) -> list[str]:
        """The command that the compose file gives to a service."""
        told = self.services[service]
        return [
            self.here(str(word))
            for word in (*(told.get("entrypoint") or ENTRYPOINTS[service]), *told["command"])
        ]

    def environment(self, service: str) -> dict[str, str]:
        """The environment that it gives, and what every process of this machine needs."""
        told = {
            name: self.here(str(value))
            for name, value in self.services[service].get("environment", {}).items()
        }
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(COMPOSE.parents[1]),
            "HOME": str(self.folder / "home"),
            "PYTHONDONTWRITEBYTECODE": "1",
            **told,
        }

    def here(self, text: str) -> str:
        """A text of the file with this machine's hosts, ports and paths."""
        for there, ours in self.replaced.items():
            text = text.replace(there, ours)
        return text

    def mount(self, service: str, target: str, place: Path) -> None:
        """Puts what the file mounts at a target of a service at a place of this machine."""
        [source] = [
            volume.split(":")[0]
            for volume in self.services[service]["volumes"]
            if volume.split(":")[1] == target
        ]
        place.symlink_to((COMPOSE / source).resolve(strict=True))

    def said(self, name: str) -> str:
        """What a process has printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def start(self, service: str, *more: str, code: str = "", **environment: str) -> None:
        """Starts a service; with `code`, Python runs that in the place of its first word."""
        words = [*self.words(service), *more]
        command = [sys.executable, "-c", code, *words[1:]] if code else words
        with (self.folder / f"{service}.log").open("wb") as log:
            self.processes[service] = subprocess.Popen(
                command, cwd=self.folder, env={**self.environment(service), **environment}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def start_ray(self, service: str) -> None:
        """A Ray node; several on one machine need ports and directories of their own."""
        place = tempfile.mkdtemp(prefix="n", dir=self.folder)
        is_head = service == "head"
        options = ["--node-ip-address=127.0.0.1", f"--temp-dir={place}", *SETTINGS[:-1]]
        if is_head:
            options += [f"--dashboard-port={free_port()}", f"--ray-client-server-port={free_port()}"]
        self.start(
            service, *options, code=START if is_head else NEXT_START,
            RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_USAGE_STATS_ENABLED="0", OMP_NUM_THREADS="1",
        )  # fmt: skip
        assert until(lambda: _STARTED in self.said(service)), self.said(service)[-3000:]

    def stop(self) -> None:
        """Ends all that was started, and whatever that has started."""
        for process in self.processes.values():
            try:
                root = psutil.Process(process.pid)
                end([root, *root.children(recursive=True)])
            except psutil.NoSuchProcess:
                pass
            process.wait()
        end(using(self.folder))


@contextmanager
def stack(home: Path, s3_endpoint: str, credentials: tuple[str, str]) -> Iterator[Stack]:
    """The stack's secrets and configuration, ready to start; nothing of it is left afterwards. `home` is what is mounted at /fleet."""
    folder = Path(tempfile.mkdtemp(prefix="cs-"))  # short: Unix sockets lie in it
    ports = {name: free_port() for name in ("head", "exporter", "run", "prometheus")}
    with ExitStack() as held:
        held.callback(shutil.rmtree, folder, ignore_errors=True)
        (folder / "home").mkdir()
        secrets = _secrets(folder, credentials)
        (folder / "prometheus.yml").write_text(
            (COMPOSE / "prometheus.yml")
            .read_text()
            .replace("127.0.0.1:9464", f"127.0.0.1:{ports['exporter']}")
            .replace("127.0.0.1:9465", f"127.0.0.1:{ports['run']}")
            .replace("scrape_interval: 15s", "scrape_interval: 1s")  # a small fleet's night is short
        )
        made = Stack(
            folder,
            yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"],
            {
                "http://s3:7070": s3_endpoint,
                "head:6379": f"127.0.0.1:{ports['head']}",
                "--port=6379": f"--port={ports['head']}",
                "9465": str(ports["run"]),
                "0.0.0.0:9090": f"127.0.0.1:{ports['prometheus']}",
                "/etc/prometheus/prometheus.yml": str(folder / "prometheus.yml"),
                "=/prometheus": f"={folder / 'samples'}",
                "/run/secrets/": f"{secrets}/",
                "/fleet/": f"{home}/",
            },
            ports,
        )
        made.mount("prometheus", "/etc/prometheus/rules", folder / "rules")
        held.callback(made.stop)
        yield made


def _secrets(folder: Path, credentials: tuple[str, str]) -> Path:
    """What setup.sh makes; the S3 server that runs here has its credentials already, and setup.sh leaves what is there."""
    shutil.copy(COMPOSE / "setup.sh", folder)
    place = folder / "secrets"
    place.mkdir(mode=0o700)
    key, secret = credentials
    (place / "aws_credentials").write_text(
        f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
    )
    (folder / "s3.env").write_text(f"ROOT_ACCESS_KEY={key}\nROOT_SECRET_KEY={secret}\n")
    subprocess.run(["sh", str(folder / "setup.sh")], check=True, timeout=60)
    return place

"""Effects. A real `mlflow server` on the loopback, with SQLite and artifacts that it serves itself.

MLflow's server cannot live in the project's own environment (it wants older pandas and pyarrow), so it has one of its own:
`make mlflow` puts it into .cache/mlflow-server.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENT = Path(__file__).parents[2] / ".cache" / "mlflow-server"
_PATIENCE = 180  # seconds; its own import takes ten on a quiet machine


@dataclass(frozen=True)
class Mlflow:
    """Where it is, and the interpreter that has its client."""

    uri: str
    python: Path
    artifacts: Path


def missing() -> str:
    """Why it cannot run here; empty if it can."""
    return (
        "" if (ENVIRONMENT / "bin" / "mlflow").exists() else "MLflow's server is not installed: make mlflow"
    )


@contextmanager
def serve() -> Iterator[Mlflow]:
    """Runs as long as the block lasts. Errors: TimeoutError, with the end of its log."""
    directory = Path(tempfile.mkdtemp(prefix="pf-mlflow-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        str(ENVIRONMENT / "bin" / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{directory}/mlflow.db", "--artifacts-destination", str(directory / "artifacts"),
    ]  # fmt: skip
    log = directory / "log"
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "PYTHON"))
    }
    environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with log.open("wb") as sink:
        server = subprocess.Popen(
            command, stdout=sink, stderr=sink, cwd=directory, env=environment, start_new_session=True
        )
    try:
        uri = f"http://127.0.0.1:{port}"
        _wait(server, f"{uri}/health", log)
        yield Mlflow(uri=uri, python=ENVIRONMENT / "bin" / "python", artifacts=directory / "artifacts")
    finally:
        os.killpg(server.pid, 9)
        server.wait()
        shutil.rmtree(directory, ignore_errors=True)


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"mlflow did not start:\n{log.read_text()[-3000:]}")

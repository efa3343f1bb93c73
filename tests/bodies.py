"""Effects. Shard bodies for tests of backends: importable by worker processes, quick, without torch."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from orchestrator.domain import UnitReport, UnitStatus


def echo(payload):
    """One good report for each key of the payload."""
    return tuple(UnitReport(key=key, status=UnitStatus.DONE, wall_seconds=0.5) for key in payload["keys"])


def where(payload):
    """Writes down which GPUs it was given, and reports."""
    Path(payload["file"]).write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    return echo(payload)


def act(payload):
    """Does what the payload says: echo, tell (a variable, and wait until it may go on), sleep (and write down its process), raise, die, crash."""
    match payload.get("do", "echo"):
        case "tell":
            told = Path(payload["file"])
            told.write_text(os.environ.get(payload["variable"], "nothing"))
            while payload.get("waits") and told.exists():
                time.sleep(0.01)
        case "sleep":
            Path(payload["file"]).write_text(str(os.getpid()))
            time.sleep(payload.get("seconds", 600))
        case "raise":
            raise RuntimeError("the body itself broke")
        case "die":
            os._exit(13)
        case "crash":
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGSEGV)
    return echo(payload)

"""Effects. Shard bodies for tests of backends: importable by worker processes, quick, without torch."""

from __future__ import annotations

import os
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
    """Does what the payload says: echo, sleep, raise, die."""
    match payload.get("do", "echo"):
        case "sleep":
            Path(payload["file"]).touch()
            time.sleep(payload.get("seconds", 600))
        case "raise":
            raise RuntimeError("the body itself broke")
        case "die":
            os._exit(13)
    return echo(payload)

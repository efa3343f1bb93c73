"""Effects. The process that `train.py` starts: takes the names of jobs on stdin, reports on stdout as JSON lines."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

import corpora
from settings import DATA_JOB, JOBS
from training import prepare, train


def main() -> None:
    """Do one job after another, each in a directory of its own under the one that the command line names."""
    reports = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not a report
    prepare()
    for line in sys.stdin:
        name = line.strip()
        _say(reports, done=True, scores=_do(name, Path(sys.argv[1]) / name, reports))


def _do(name: str, directory: Path, reports: TextIO) -> list[dict[str, Any]]:
    if name == DATA_JOB:
        corpora.write_all(directory)
        return []
    job = next(job for job in JOBS if job.model == name)
    return train(job, directory, lambda steps: _say(reports, steps=steps))


def _say(reports: TextIO, **report: Any) -> None:
    reports.write(json.dumps(report) + "\n")
    reports.flush()


if __name__ == "__main__":
    main()

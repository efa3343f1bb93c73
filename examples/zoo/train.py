"""Effects. `python examples/zoo/train.py DIRECTORY` trains the model zoo; whatever is there and intact stays."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from records import Record, Scores, digests, is_intact, read_records, source_key, write_records
from settings import DATA_JOB, JOBS

WORK = ".work"  # where jobs write, before what they made is moved to its place
MOST_PROCESSES = 4  # more would only wait for the longest job
STEPS = {DATA_JOB: 0, **{job.model: sum(release.steps for release in job.releases) for job in JOBS}}

Report = Callable[[str, int], None]
"""Told how many steps of a job are done."""


@dataclass(frozen=True, slots=True)
class Round:
    """What the threads of one call share."""

    zoo: Path
    waiting: queue.SimpleQueue[str]
    records: dict[str, Record]
    report: Report
    lock: threading.Lock


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the model zoo, or what is missing of it.")
    parser.add_argument("directory", type=Path, help="gets models/<name>/<version>/, data/ and scores.json")
    zoo = parser.parse_args().directory.resolve()
    zoo.mkdir(parents=True, exist_ok=True)
    with _alone(zoo):
        missing = missing_jobs(zoo)
        if not missing:
            print(f"the zoo in {zoo} is complete", file=sys.stderr)
            return
        started = time.monotonic()
        make(zoo, missing)
        _print_scores(json.loads((zoo / "scores.json").read_text()))
        print(f"the zoo in {zoo} took {time.monotonic() - started:.0f} s", file=sys.stderr)


def missing_jobs(zoo: Path) -> list[str]:
    """Jobs never done, done from other sources or settings, or whose files are no longer what was written."""
    key, records = source_key(), read_records(zoo)
    names = [*(job.model for job in JOBS), DATA_JOB]
    missing = [name for name in names if not is_intact(zoo, records.get(name), key, _place(zoo, name))]
    return missing if missing or (zoo / "scores.json").exists() else names


def make(zoo: Path, names: Sequence[str]) -> None:
    """Do the jobs, as many at once as there are processors; each is recorded as soon as it is done."""
    shutil.rmtree(zoo / WORK, ignore_errors=True)
    _remove_strangers(zoo)
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in names:
        waiting.put(name)
    records = {
        name: record for name, record in read_records(zoo).items() if name in STEPS and name not in names
    }
    processes = min(len(os.sched_getaffinity(0)), MOST_PROCESSES, len(names))
    with _progress(names) as report, ThreadPoolExecutor(processes) as threads:
        shared = Round(zoo, waiting, records, report, threading.Lock())
        for thread in [threads.submit(_drive, shared) for _ in range(processes)]:
            thread.result()
    shutil.rmtree(zoo / WORK)


def _drive(shared: Round) -> None:
    """Start one worker process and give it jobs until none is waiting."""
    command = [sys.executable, str(Path(__file__).with_name("worker.py")), str(shared.zoo / WORK)]
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdin=-1, stdout=-1, stderr=said, text=True) as worker,
    ):
        assert worker.stdin is not None
        assert worker.stdout is not None
        while (name := _next(shared.waiting)) is not None:
            scores = _one_job(name, worker.stdin, worker.stdout, shared.report)
            if scores is None:
                while _next(shared.waiting) is not None:  # the other workers end with the jobs that they have
                    pass
                worker.wait()
                said.seek(0)
                raise SystemExit(f"{name}: the training process ended early\n{said.read()}")
            with shared.lock:
                _put_in_place(shared, name, scores)
        worker.stdin.close()


def _next(waiting: queue.SimpleQueue[str]) -> str | None:
    try:
        return waiting.get_nowait()
    except queue.Empty:
        return None


def _one_job(name: str, orders: IO[str], reports: IO[str], report: Report) -> Scores | None:
    """The job's scores, or None if the process ended before it had any."""
    orders.write(name + "\n")
    orders.flush()
    for line in reports:
        message = json.loads(line)
        if message.get("done"):
            scores: Scores = message["scores"]
            return scores
        report(name, message["steps"])
    return None


def _put_in_place(shared: Round, name: str, scores: Scores) -> None:
    place = _place(shared.zoo, name)
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(exist_ok=True)
    for path in (shared.zoo / WORK / name).rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    os.replace(shared.zoo / WORK / name, place)
    files = digests(shared.zoo, place)
    shared.records[name] = Record(key=source_key(), files=files, scores=scores)
    write_records(shared.zoo, shared.records)
    shared.report(name, STEPS[name])


def _place(zoo: Path, name: str) -> Path:
    return zoo / DATA_JOB if name == DATA_JOB else zoo / "models" / name


def _remove_strangers(zoo: Path) -> None:
    """The models directory is a registry: a model of former settings would be taken for one of the zoo's."""
    if (zoo / "models").exists():
        for path in (zoo / "models").iterdir():
            if path.name not in STEPS:
                shutil.rmtree(path)


@contextmanager
def _alone(zoo: Path) -> Iterator[None]:
    """One call at a time for each directory; the next waits, and finds the work done."""
    with (zoo / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _progress(names: Sequence[str]) -> Iterator[Report]:
    """A bar for each job, where somebody is looking."""
    if not sys.stderr.isatty():
        yield lambda name, steps: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks = {
            name: progress.add_task(name, total=STEPS[name], start=False)
            for name in names
            if name != DATA_JOB
        }

        def report(name: str, steps: int) -> None:
            if name in tasks:
                progress.start_task(tasks[name])
                progress.update(tasks[name], completed=steps)

        yield report


def _print_scores(scores: Scores) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "version", "parameters", "metric", "value", "guessing", "by the last byte")
    for score in scores:
        table.add_row(
            score["model"],
            score["version"],
            f"{score['parameters']:,}",
            score["metric"],
            f"{score['value']:.3f}",
            f"{score['chance']:.3f}",
            f"{score['bigram']:.3f}" if "bigram" in score else "",
        )
    Console(width=None if sys.stdout.isatty() else 100).print(table)


if __name__ == "__main__":
    main()

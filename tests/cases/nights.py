"""A clock, runs that end as told, and a server that hears messages: what tests of nights are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer

from orchestrator.nights.nightly import Watch
from orchestrator.reports.data import ReportData
from orchestrator.specs.nights import ScheduleSpec

SCHEDULE = ScheduleSpec(at="01:00", window="5h")


DAY = 86_400.0


def moment(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


ONE = moment("2026-11-22T01:00")


@dataclass
class Clock:
    at: float = ONE
    slept: float = 0.0
    most: float = 1e6
    on_sleep: object = None

    def now(self):
        return self.at

    def sleep(self, seconds):
        self.at += seconds
        self.slept += seconds
        assert self.slept < self.most
        if self.on_sleep:
            self.on_sleep()


@dataclass
class Ended:
    run_id: str = "r1"
    exit_code: int = 0
    outcome: str = "done"
    carried_over: int = 0
    stop_reason: str = ""
    told: ReportData = field(default_factory=lambda: told())


def told(chains=(), failures=(), impossible=(), units=()):
    verdicts = [
        {
            "unit_key": one["units"][0],
            "gate": "overall",
            "slice": "all",
            "verdict": one["verdict"],
            "limit": 0.1,
        }
        for one in chains
    ]
    return ReportData(
        run={"run_id": "r1"},
        verdicts=verdicts,
        chains=list(chains),
        failures=list(failures),
        impossible=list(impossible),
        units=list(units),
    )


def chain(model="lm", version="1", recipe="half", verdict="pass", state="done"):
    return {
        "registry": "zoo", "model": model, "version": version, "recipe": recipe, "state": state, "verdict": verdict,
        "units": (f"{model} {recipe}",), "confidence": 0.95,
    }  # fmt: skip


class Runs:
    """Carries nights out, and remembers with which limits."""

    def __init__(self, *ends):
        self.ends, self.stops = list(ends), []

    def __call__(self, stop, signals):
        self.stops.append(stop)
        end = self.ends.pop(0) if self.ends else Ended()
        if isinstance(end, Exception):
            raise end
        return end(stop, signals) if callable(end) else end


def watch(store, at=ONE, **more):
    return Watch(store=store, fleet="demo", schedule=more.pop("schedule", SCHEDULE), clock=Clock(at), **more)


class Server(ThreadingHTTPServer):
    answers: list
    seen: list

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/hook?x=1"


def blocked():
    return Runs(Ended(exit_code=3, outcome="blocked", told=told([chain(verdict="block")])))

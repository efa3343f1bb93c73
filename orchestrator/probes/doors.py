"""Effects. The Jobs API of each cluster that a fleet names: whether it answers, lets strangers in, and takes our token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.clusters.jobs import Jobs
from orchestrator.errors import NotPermitted, StoreError, Unreachable, UsageError
from orchestrator.probes.checks import Check, State
from orchestrator.spec import Fleet

NO_JOB = "prunefleet-doctor"
"""A job that nobody has: asking for it shows whether the token is taken, and changes nothing."""


def check_doors(fleet: Fleet, environment: Mapping[str, str]) -> Iterator[Check]:
    """One check for each cluster of the fleet file, in its order."""
    for name in fleet.clusters:
        yield _check(fleet, name, environment)


def _check(fleet: Fleet, name: str, environment: Mapping[str, str]) -> Check:
    def told(state: State, seen: str, follows: str = "", advice: str = "") -> Check:
        return Check(
            area=f"cluster {name}", name="Jobs API", state=state, seen=seen, follows=follows, advice=advice
        )

    unusable = "`submit` sends nothing there."
    try:
        jobs = Jobs.of(name, fleet.clusters[name], environment)
        jobs.check_door(environment)
        is_open = jobs.answers_strangers()
        jobs.status(NO_JOB)
    except UsageError as error:
        return told(
            State.BROKEN, str(error), unusable, "Correct the fleet file, or put the token where it says."
        )
    except Unreachable as error:
        return told(State.UNREACHABLE, str(error), unusable, "Start the cluster, or correct its address.")
    except NotPermitted as error:
        return told(State.DENIED, str(error), unusable, "Its own message says what is missing.")
    except StoreError as error:
        return told(State.BROKEN, str(error), unusable, "Look whether that address is a Ray dashboard.")
    if is_open:
        return told(
            State.OK, f"{jobs.address} answers, also without a token; it is on this machine or kept apart"
        )
    return told(State.OK, f"{jobs.address} takes our token and refuses whoever has none")

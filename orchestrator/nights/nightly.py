"""Effects. One night per slot, whatever triggers it: a lease so that one works, a record so that it is done once.

Triggers may come twice, late, in parallel, or not at all. A slot's night is over when its record is there; whoever comes
before that takes the lease or leaves; whoever dies is followed by the next trigger, as often as the schedule allows.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from orchestrator.controller import Signals
from orchestrator.credentials import masked
from orchestrator.domain import Pool
from orchestrator.errors import Damaged, NotSupported, PrunefleetError
from orchestrator.leases import Held, acquire, holder
from orchestrator.nights import heartbeat, nightrecords, notify
from orchestrator.nights.due import Due, Duty
from orchestrator.nights.looking import lease_name, look
from orchestrator.nights.notify import Message
from orchestrator.ports import Clock, ObjectStore
from orchestrator.reports.data import ReportData
from orchestrator.reports.morning import Morning, Night, Standing, compare, details_of, spent, standing_of
from orchestrator.reports.morningpage import pages
from orchestrator.schedule.window import StopAt
from orchestrator.specs.nights import NotifySpec, ScheduleSpec
from orchestrator.wording import plain

EXIT_OK, EXIT_INTERNAL, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 4, 75
TO_BE_CONTINUED = frozenset({EXIT_INTERNAL, *nightrecords.REFUSALS})
"""Exit codes of a night that did not come to its end: the slot stays open for the next trigger."""
LOOK_AGAIN_SECONDS = 1.0
DOZE_SECONDS = 30.0  # a clock may be set, and a fleet file changed, while a resident waits


class Ended(Protocol):
    """How a run ended, as far as a night must know."""

    @property
    def run_id(self) -> str: ...
    @property
    def exit_code(self) -> int: ...
    @property
    def outcome(self) -> str: ...
    @property
    def carried_over(self) -> int: ...
    @property
    def stop_reason(self) -> str: ...
    @property
    def told(self) -> ReportData: ...


CarryOut = Callable[[StopAt, Signals], Ended]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a night is kept with."""

    store: ObjectStore
    fleet: str
    schedule: ScheduleSpec
    notify: Mapping[str, NotifySpec] = field(default_factory=dict)
    pools: Mapping[str, Pool] = field(default_factory=dict)
    clock: Clock
    trigger: str = ""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    owner: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}")
    lease_seconds: float = heartbeat.LEASE_SECONDS
    beat_seconds: float = heartbeat.BEAT_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a trigger ended."""

    due: Due
    exit_code: int = EXIT_OK
    reason: str
    morning: Morning | None = None
    """Of the night that this trigger closed."""
    untold: tuple[str, ...] = ()
    """Notifications that failed, and why."""


def nightly(watch: Watch, carry_out: CarryOut, signals: Signals) -> Answer:
    """Does what a trigger at this moment is to do: runs the slot's night, or leaves it to whoever does or did."""
    decision = _look(watch)
    while decision.duty is Duty.WAIT and not signals.drain:
        watch.clock.sleep(min(LOOK_AGAIN_SECONDS, max(0.01, decision.until - watch.clock.now())))
        decision = _look(watch)
    if decision.duty not in (Duty.RUN, Duty.GIVEN_UP):
        return Answer(due=decision, reason=decision.reason)
    with _leased(watch, signals) as lease:
        if lease is None:
            reason = f"another process works on slot {_name(decision)} (overlap)"
            return Answer(due=decision, reason=reason)
        decision = _look(watch)  # it may have been closed while the lease was waited for
        match decision.duty:
            case Duty.RUN:
                return _night(watch, decision, lease, carry_out, signals)
            case Duty.GIVEN_UP:
                return _close(watch, decision, _never(watch, decision), None, lease)
            case _:
                return Answer(due=decision, reason=decision.reason)


def _look(watch: Watch) -> Due:
    return look(watch.store, watch.fleet, watch.schedule, watch.clock.now())


@dataclass(slots=True)
class _Lease:
    """Whether the night is ours alone."""

    held: Held | None
    notices: tuple[str, ...] = ()
    is_lost: bool = False


@contextmanager
def _leased(watch: Watch, signals: Signals) -> Any:
    """The lease of the fleet's nights while it is ours; None if another holds it and is alive."""
    name = lease_name(watch.fleet)
    try:
        held = _acquired(watch, name, signals)
    except NotSupported as error:
        yield _Lease(held=None, notices=(f"UNSAFE: {error}",))
        return
    if held is None:
        yield None
        return
    lease = _Lease(held=held)

    def lost() -> None:
        lease.is_lost = True
        signals.drain = signals.drain or "another process has taken the night over"

    with heartbeat.kept(watch.store, held, watch.clock.now, lost, watch.beat_seconds, watch.lease_seconds):
        yield lease


def _acquired(watch: Watch, name: str, signals: Signals) -> Held | None:
    """Takes the lease; where another has it, waits until it is renewed, which shows life, or runs out."""
    seen: float | None = None
    while True:
        held = acquire(watch.store, name, watch.owner, watch.clock.now(), watch.lease_seconds)
        if held is not None:
            return held
        there = holder(watch.store, name)
        if there is not None and there.owner:
            if signals.drain or (seen is not None and there.expires > seen):
                return None
            seen = there.expires
        watch.clock.sleep(LOOK_AGAIN_SECONDS)


def _night(watch: Watch, decision: Due, lease: _Lease, carry_out: CarryOut, signals: Signals) -> Answer:
    """Carries the slot's night out and closes it, unless it did not come to its end."""
    slot = decision.slot
    assert slot is not None
    begun_at = watch.clock.now()
    before = nightrecords.tries_of(watch.store, watch.fleet, slot.name)
    epoch = lease.held.lease.epoch if lease.held else 0
    name = f"{len(before) + 1:03d}-{epoch:08d}-{secrets.token_hex(4)}"
    told = {"at": begun_at, "owner": watch.owner, "trigger": watch.trigger}
    nightrecords.begin_try(watch.store, watch.fleet, slot.name, name, told)
    night = Night(
        fleet=watch.fleet,
        slot=slot.name,
        scheduled_at=slot.begins,
        begun_at=begun_at,
        ended_at=begun_at,
        tries=len(before) + 1,
        trigger=watch.trigger,
        outcome="begun",
        exit_code=EXIT_INTERRUPTED,
        missed=decision.missed,
        notices=lease.notices,
    )

    def goes_on(exit_code: int) -> None:
        with suppress(PrunefleetError):  # what is not told counts like a try that died
            nightrecords.end_try(watch.store, watch.fleet, slot.name, name, told, exit_code)

    try:
        ended = carry_out(_stop(watch, decision, begun_at), signals)
    except Exception as error:  # whatever it is, somebody is told
        is_known = isinstance(error, PrunefleetError)
        why = masked(f"the night could not be run: {error if is_known else repr(error)}")
        failed = replace(
            night,
            ended_at=watch.clock.now(),
            outcome="failed",
            exit_code=error.exit_code if isinstance(error, PrunefleetError) else EXIT_INTERNAL,
            notices=(*night.notices, why),
        )
        goes_on(failed.exit_code)
        answer = _left_open(watch, decision, failed, why)
        if not is_known:
            raise
        return answer
    seconds, dollars = spent(ended.told.units, watch.pools)
    night = replace(
        night,
        ended_at=watch.clock.now(),
        run_id=ended.run_id,
        outcome=ended.outcome,
        exit_code=ended.exit_code,
        carried_over=ended.carried_over,
        stop_reason=ended.stop_reason,
        unit_seconds=seconds,
        dollars=dollars,
    )
    if lease.is_lost:
        goes_on(EXIT_INTERRUPTED)
        reason = "another process has taken the night over; what was finished counts"
        return Answer(due=decision, exit_code=EXIT_INTERRUPTED, reason=reason)
    if ended.exit_code in TO_BE_CONTINUED:
        goes_on(ended.exit_code)
        why = f"the night did not come to its end: {ended.stop_reason or ended.outcome}"
        if ended.exit_code == EXIT_INTERRUPTED:
            return Answer(due=decision, exit_code=ended.exit_code, reason=why)
        return _left_open(watch, decision, replace(night, notices=(*night.notices, why)), why)
    return _close(watch, decision, night, ended.told, lease)


def _close(watch: Watch, decision: Due, night: Night, data: ReportData | None, lease: _Lease) -> Answer:
    """Compares with the night before, keeps and closes, and tells whoever is to be told."""
    notices = (*night.notices, *_untold_before(watch, night.slot))
    try:
        before, since = nightrecords.last_standing(watch.store, watch.fleet)
    except Damaged as error:
        before, since = None, night.begun_at
        notices = (*notices, f"compared with nothing: {error}")
    night = replace(night, notices=notices)
    standing, morning = _compared(watch, before, since, night, data)
    files = nightrecords.keep(watch.store, night, standing, pages(morning))
    message = notify.message_of(morning, _page(watch, night.slot))
    untold = _tell(watch, morning, night.slot, message)  # before the record, or a crash would leave it unsaid
    if not nightrecords.close(watch.store, night, files):
        return Answer(due=decision, reason=f"another process has closed slot {night.slot}", untold=untold)
    return Answer(
        due=decision, exit_code=night.exit_code, reason=decision.reason, morning=morning, untold=untold
    )


def _compared(
    watch: Watch, before: Standing | None, since: float, night: Night, data: ReportData | None
) -> tuple[Standing | None, Morning]:
    """A night that never came to look leaves things as they stood."""
    moves = _moves_since(watch.store, watch.fleet, since)
    if data is None:
        standing = before or Standing(cases={}, versions=(), failures={}, impossible={})
        return None, replace(compare(standing, standing, {}, moves, night), is_first=before is None)
    standing = standing_of(data)
    return standing, compare(before, standing, details_of(data), moves, night)


def _left_open(watch: Watch, decision: Due, night: Night, why: str) -> Answer:
    """Tells of a night that could not be run, once a slot; the next trigger tries it again."""
    empty = Standing(cases={}, versions=(), failures={}, impossible={})
    morning = compare(empty, empty, {}, (), night)
    untold = _tell(watch, morning, f"{night.slot}-open", notify.message_of_failure(night, why))
    return Answer(due=decision, exit_code=night.exit_code, reason=why, untold=untold)


def _never(watch: Watch, decision: Due) -> Night:
    slot = decision.slot
    assert slot is not None
    at = watch.clock.now()
    return Night(
        fleet=watch.fleet,
        slot=slot.name,
        scheduled_at=slot.begins,
        begun_at=at,
        ended_at=at,
        tries=len(nightrecords.tries_of(watch.store, watch.fleet, slot.name)),
        trigger=watch.trigger,
        outcome="given up",
        exit_code=EXIT_FAILED,
        missed=(*decision.missed, slot.name),
        notices=(decision.reason,),
    )


def _stop(watch: Watch, decision: Due, at: float) -> StopAt:
    assert decision.slot is not None
    window = StopAt(at=decision.until, reason=f"the window of slot {decision.slot.name} has ended")
    hours = watch.schedule.budget_hours
    if hours is None:
        return window
    budget = StopAt(at=at + hours * 3600, reason=f"the budget of {hours:g} hours has ended")
    return min(window, budget, key=lambda stop: stop.at)


def _page(watch: Watch, slot: str) -> str:
    return f"{watch.store.url.rstrip('/')}/{nightrecords.PREFIX}{watch.fleet}/reports/{slot}/report.html"


def _tell(watch: Watch, morning: Morning, name: str, message: Message) -> tuple[str, ...]:
    """Sends the message to whom it is wanted by, once each; what failed is recorded, and told in the next morning."""
    untold = []
    for target, spec in watch.notify.items():
        at = watch.clock.now()
        if not notify.is_wanted(spec, morning):
            continue
        if not nightrecords.claim_message(
            watch.store, watch.fleet, name, target, {"state": "begun", "at": at}
        ):
            continue
        state, why = "sent", ""
        try:
            notify.send(spec, message, watch.environment, at)
        except Exception as error:  # of a service that others wrote; a message never fails a night
            known = isinstance(error, notify.NotTold)
            state, why = "failed", str(error) if known else f"it failed by {type(error).__name__}"
            untold.append(f"{target}: {why}")
        nightrecords.record_message(
            watch.store, watch.fleet, name, target, {"state": state, "at": at, "why": why}
        )
    return tuple(untold)


def _untold_before(watch: Watch, slot: str) -> tuple[str, ...]:
    """Messages of the last night that did not arrive."""
    earlier = [name for name in nightrecords.closed_slots(watch.store, watch.fleet) if name < slot]
    if not earlier:
        return ()
    found = nightrecords.told(watch.store, watch.fleet, earlier[-1])
    return tuple(
        f"the message of night {earlier[-1]} to {target} did not arrive: {plain(value.get('why') or 'it was begun and not ended')}"
        for target, value in found.items()
        if value.get("state") != "sent"
    )


def _moves_since(store: ObjectStore, fleet: str, since: float) -> list[dict[str, Any]]:
    from orchestrator.tables.records import read_records

    rows = read_records(store, "promotions").table.to_pylist()
    ours = (row for row in rows if row["fleet"] == fleet and row["at"] is not None)
    return [row for row in ours if row["at"].timestamp() > since]


def _name(decision: Due) -> str:
    return decision.slot.name if decision.slot else ""

"""Effects. Holds what nights, proposals and approvals left in a store against what they say of themselves."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.care.damages import Verification, Watch
from orchestrator.errors import Damaged, NoStableBytes, NotFound
from orchestrator.identity import digest, digest_bytes
from orchestrator.inflight import mapped
from orchestrator.names import is_sha256
from orchestrator.nights import nightrecords
from orchestrator.ports import ObjectStore, Stat
from orchestrator.promotion import approvals
from orchestrator.promotion.approvals import Approval
from orchestrator.promotion.promoting import PREFIX as PROPOSALS
from orchestrator.specs.promotion import PromotionSpec

THREADS = 8

_APPROVAL = re.compile(r"approvals/([^/]+)\.json\Z")
_NO_RECORD = "it is no record"
_NOT_ITS_NAME = "it does not say what its name says"
_ADVICE_NIGHT = "take it from a backup; nothing makes it again."
_ADVICE_LEAVE = "delete it once its night is over; nothing else reads it then."
_ADVICE_PROPOSAL = "delete it; `promote --propose` and `promote --approve` make new ones."

Files = Mapping[str, str]


def check_nights(store: ObjectStore, done: Verification, watch: Watch) -> None:
    """Every record of a night, and every file of its report against the SHA-256 that the record names."""
    found, closed = nightrecords.all_of(store), {}
    for part in found:
        if part.slot == "":
            done.foreign.append(part.stat.key)
    ours = [part for part in found if part.slot]
    first = [part for part in ours if part.what == "closed"]
    for part, files, problem in mapped(lambda one: _closed(store, one), first, THREADS):
        closed[part.night] = files
        _told(done, "night", part.stat, problem, _ADVICE_NIGHT, watch)
    rest = [part for part in ours if part.what != "closed"]
    for part, problem in mapped(lambda one: (one, _of_night(store, one, closed)), rest, THREADS):
        advice = _ADVICE_NIGHT if part.what == "reports" else _ADVICE_LEAVE
        _told(done, "night", part.stat, problem, advice, watch)
    for key in _lost(rest, closed):
        done.damaged(
            "night", key, "it is not there, although the record of its night names it", _ADVICE_NIGHT
        )


def check_proposals(store: ObjectStore, rule: PromotionSpec | None, done: Verification, watch: Watch) -> None:
    """Every proposal against the digest that names it; every approval against its place, and its signature where a rule has keys."""

    def known() -> Iterator[tuple[Stat, str, str]]:
        for found in store.list(PROPOSALS):
            name, _, rest = found.key.removeprefix(PROPOSALS).partition("/")
            if is_sha256(name) and (rest == "proposal.json" or _APPROVAL.match(rest)):
                yield found, name, rest
            else:
                done.foreign.append(found.key)

    def read(item: tuple[Stat, str, str]) -> tuple[Stat, str]:
        found, name, rest = item
        return found, _of_proposal(store, found.key, name, _APPROVAL.match(rest), rule)

    for found, problem in mapped(read, known(), THREADS):
        _told(done, "proposal", found, problem, _ADVICE_PROPOSAL, watch)


def _told(done: Verification, kind: str, found: Stat, problem: str, advice: str, watch: Watch) -> None:
    done.count(kind, found.bytes)
    if problem:
        done.damaged(kind, found.key, problem, advice)
    watch(done)


def _closed(store: ObjectStore, part: nightrecords.Part) -> tuple[nightrecords.Part, Files, str]:
    """The files that a night's record names, and what is wrong with it."""
    try:
        record = nightrecords.read_closed(store, part.fleet, part.slot)
        said = record.pop("digest", None)
        night = nightrecords.night_of(record)
        if said != digest(record):
            return part, {}, "it is not what was recorded"
    except (Damaged, NotFound, TypeError, NoStableBytes) as error:
        return part, {}, str(error)
    if (night.fleet, night.slot) != part.night:
        return part, {}, f"it is of night {night.slot} of fleet {night.fleet}"
    files = record.get("files")
    return part, files if isinstance(files, dict) else {}, ""


def _of_night(store: ObjectStore, part: nightrecords.Part, closed: Mapping[tuple[str, str], Files]) -> str:
    """What is wrong with a file of a report, a try or a message."""
    if part.what != "reports":
        return "" if isinstance(_json(store, part.stat.key), dict) else _NO_RECORD
    expected = closed.get(part.night, {}).get(part.name)
    if expected is None:
        return ""
    try:
        found = digest_bytes(store.get(part.stat.key))
    except (Damaged, NotFound) as error:
        return str(error)
    return "" if found == expected else f"its SHA-256 is {found}, and the record of its night says {expected}"


def _lost(parts: list[nightrecords.Part], closed: Mapping[tuple[str, str], Files]) -> Iterator[str]:
    """Files that a record names and that are not there, unless `gc` took the whole report: never that of a fleet's last night."""
    there: dict[tuple[str, str], set[str]] = {}
    for part in parts:
        if part.what == "reports":
            there.setdefault(part.night, set()).add(part.name)
    last = dict(sorted(closed))
    for (fleet, slot), files in sorted(closed.items()):
        if (fleet, slot) in there or last[fleet] == slot:
            for name in sorted(files.keys() - there.get((fleet, slot), set())):
                yield f"{nightrecords.PREFIX}{fleet}/reports/{slot}/{name}"


def _of_proposal(
    store: ObjectStore, key: str, name: str, approval: re.Match[str] | None, rule: PromotionSpec | None
) -> str:
    value = _json(store, key)
    try:
        if approval is None:
            return "" if approvals.proposal_of(value).id == name else _NOT_ITS_NAME
        said = approvals.approval_of(value)
    except (ValueError, NoStableBytes) as error:
        return str(error)
    if (said.proposal, said.actor) != (name, approval[1]):
        return _NOT_ITS_NAME
    return _signature_problem(said, rule)


def _signature_problem(approval: Approval, rule: PromotionSpec | None) -> str:
    """What is wrong with a signature that can be checked here: the signer is known, and so is the key."""
    signer = rule.signers.get(approval.actor) if rule else None
    if signer is None or (signer.secret_env is not None and not os.environ.get(signer.secret_env)):
        return ""
    return approvals.signature_problem(signer, approval, os.environ)


def _json(store: ObjectStore, key: str) -> Any:
    """The value of an object, or None if it has none."""
    try:
        return json.loads(store.get(key))
    except (ValueError, RecursionError, Damaged, NotFound):
        return None

"""Effects. What nights leave in the store: their tries, what stood after each, its reports, and the record that it is over.

`nights/<fleet>/closed/<slot>.json` is written last, and only once: THE record that the slot's night is over.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.errors import Damaged, NotFound
from orchestrator.identity import digest, digest_bytes
from orchestrator.ports import ObjectStore, Stat
from orchestrator.reports.morning import Night, Standing

PREFIX = "nights/"
STANDING = "standing.json.gz"
REFUSALS = frozenset({69, 75, 77})
"""Exit codes of a try that something ended which may be over later: out of reach, interrupted, not permitted."""
_SLOT_NAME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{4}"
_SLOT = re.compile(rf"{_SLOT_NAME}\Z")
_PART = re.compile(
    rf"{PREFIX}(?P<fleet>[^/]+)/(?:(?P<closed>closed)/(?P<slot>{_SLOT_NAME})\.json|"
    rf"(?P<what>reports|tries|told)/(?P<of>{_SLOT_NAME})(?:-open)?/(?P<name>[^/]+))\Z"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One object below `nights/`."""

    stat: Stat
    fleet: str = ""
    slot: str = ""
    """Empty for what no night left."""
    what: str = ""
    """`closed`, `reports`, `tries` or `told`."""
    name: str = ""
    """Of the file, where a night has several."""

    @property
    def night(self) -> tuple[str, str]:
        """Whose it is."""
        return self.fleet, self.slot


def all_of(store: ObjectStore) -> list[Part]:
    """Everything below `nights/`, in key order."""
    return [_part(stat) for stat in store.list(PREFIX)]


def folders(fleet: str, slot: str) -> tuple[str, ...]:
    """Where a night leaves what is not its record."""
    places = (f"reports/{slot}", f"tries/{slot}", f"told/{slot}", f"told/{slot}-open")
    return tuple(f"{PREFIX}{fleet}/{place}/" for place in places)


def _part(stat: Stat) -> Part:
    match = _PART.match(stat.key)
    if match is None:
        return Part(stat=stat)
    return Part(
        stat=stat,
        fleet=match["fleet"],
        slot=match["slot"] or match["of"],
        what=match["closed"] or match["what"],
        name=match["name"] or "",
    )


def closed_slots(store: ObjectStore, fleet: str) -> tuple[str, ...]:
    """Names of the slots whose nights are over, in their order."""
    return tuple(_names(store, f"{PREFIX}{fleet}/closed/"))


def tries_of(store: ObjectStore, fleet: str, slot: str) -> tuple[str, ...]:
    """The tries of a slot's night, in their order."""
    prefix = f"{PREFIX}{fleet}/tries/{slot}/"
    return tuple(stat.key.removeprefix(prefix).removesuffix(".json") for stat in store.list(prefix))


def begin_try(store: ObjectStore, fleet: str, slot: str, name: str, told: Mapping[str, Any]) -> None:
    """Writes down that a night is begun, before it is: a try that kills its process counts as well."""
    store.put(f"{PREFIX}{fleet}/tries/{slot}/{name}.json", json.dumps(dict(told)).encode())


def end_try(
    store: ObjectStore, fleet: str, slot: str, name: str, told: Mapping[str, Any], exit_code: int
) -> None:
    """Adds how a try ended whose night goes on later."""
    begin_try(store, fleet, slot, name, {**told, "exit_code": exit_code})


def refused_of(store: ObjectStore, fleet: str, slot: str, tries: Iterable[str]) -> int:
    """How many tries ended because something was out of reach, forbidden or interrupted; of others nobody knows the end."""
    refused = 0
    for name in tries:
        try:
            told = json.loads(store.get(f"{PREFIX}{fleet}/tries/{slot}/{name}.json"))
        except (NotFound, ValueError):
            continue
        refused += isinstance(told, dict) and told.get("exit_code") in REFUSALS
    return refused


def keep(
    store: ObjectStore, night: Night, standing: Standing | None, pages: Mapping[str, str]
) -> dict[str, str]:
    """Keeps what stands and the reports, file -> SHA-256; `standing` is None for a night that never came to look."""
    files = {name: text.encode() for name, text in pages.items()}
    if standing is not None:
        data = json.dumps(asdict(standing), sort_keys=True).encode()
        files[STANDING] = gzip.compress(data, mtime=0)
    for name, data in files.items():
        store.put(f"{PREFIX}{night.fleet}/reports/{night.slot}/{name}", data)
    return {name: digest_bytes(data) for name, data in files.items()}


def close(store: ObjectStore, night: Night, files: Mapping[str, str]) -> bool:
    """Closes the slot, after all files that belong to it are kept; False if another had closed it."""
    record = {**asdict(night), "stands": STANDING in files, "files": dict(files)}
    record["digest"] = digest(record)
    return store.put_if_absent(f"{PREFIX}{night.fleet}/closed/{night.slot}.json", json.dumps(record).encode())


def last_standing(store: ObjectStore, fleet: str) -> tuple[Standing | None, float]:
    """What stood after the last night that looked, and when it ended; None and 0 before the first. Errors: Damaged."""
    for slot in reversed(closed_slots(store, fleet)):
        record = read_closed(store, fleet, slot)
        if record.get("stands") and (standing := _standing(store, fleet, slot)):
            return standing, float(record.get("ended_at", 0.0))
    return None, 0.0


def read_closed(store: ObjectStore, fleet: str, slot: str) -> dict[str, Any]:
    """The record of a night that is over. Errors: NotFound, Damaged."""
    key = f"{PREFIX}{fleet}/closed/{slot}.json"
    try:
        record = json.loads(store.get(key))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{key} in {store.url} cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise Damaged(f"{key} in {store.url} is no record of a night")
    return record


def read_page(store: ObjectStore, fleet: str, slot: str, name: str) -> bytes:
    """A page of a night's morning report. Errors: NotFound."""
    try:
        return store.get(f"{PREFIX}{fleet}/reports/{slot}/{name}")
    except NotFound:
        known = closed_slots(store, fleet)[-3:]
        there = f"the last ones are {', '.join(known)}" if known else "there is none yet"
        raise NotFound(f"there is no night {slot} of fleet {fleet} in {store.url}; {there}") from None


def told(store: ObjectStore, fleet: str, slot: str) -> dict[str, dict[str, Any]]:
    """What became of each message about a night, by the name of its notification."""
    prefix = f"{PREFIX}{fleet}/told/{slot}/"
    found = {}
    for stat in store.list(prefix):
        try:
            value = json.loads(store.get(stat.key))
        except (ValueError, RecursionError, NotFound):
            continue
        if isinstance(value, dict):
            found[stat.key.removeprefix(prefix).removesuffix(".json")] = value
    return found


def claim_message(store: ObjectStore, fleet: str, slot: str, name: str, value: Mapping[str, Any]) -> bool:
    """Says that a message is being sent; False if somebody else has said so."""
    return store.put_if_absent(f"{PREFIX}{fleet}/told/{slot}/{name}.json", json.dumps(dict(value)).encode())


def record_message(store: ObjectStore, fleet: str, slot: str, name: str, value: Mapping[str, Any]) -> None:
    """Says what became of a message."""
    store.put(f"{PREFIX}{fleet}/told/{slot}/{name}.json", json.dumps(dict(value)).encode())


def night_of(record: Mapping[str, Any]) -> Night:
    """The night that a record tells of. Errors: TypeError, if it lacks something."""
    known = {name: record[name] for name in Night.__dataclass_fields__ if name in record}
    return Night(
        **{**known, "missed": tuple(known.get("missed", ())), "notices": tuple(known.get("notices", ()))}
    )


def _standing(store: ObjectStore, fleet: str, slot: str) -> Standing | None:
    """What stood after a night; None if somebody has removed it. Errors: Damaged."""
    key = f"{PREFIX}{fleet}/reports/{slot}/{STANDING}"
    try:
        value = json.loads(gzip.decompress(store.get(key)))
        return Standing(**{**value, "versions": tuple(value["versions"])})
    except NotFound:
        return None
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        raise Damaged(
            f"{key} in {store.url} cannot be read: {error}; remove it to compare with the night before"
        ) from error


def _names(store: ObjectStore, prefix: str) -> list[str]:
    names = (stat.key.removeprefix(prefix).removesuffix(".json") for stat in store.list(prefix))
    return sorted(name for name in names if _SLOT.match(name))

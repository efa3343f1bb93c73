"""Effects. Records that no work waits for: put once, kept while the store refuses them, and tried again."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.credentials import masked
from orchestrator.errors import STORE_ERRORS, Unreachable
from orchestrator.ports import ObjectStore

CLOSING_TRIES = 3


@dataclass(slots=True)
class Outbox:
    """What a run still owes the store, in the order in which it came up."""

    store: ObjectStore
    waiting: dict[str, bytes] = field(default_factory=dict)
    """Key -> what is to stand there unless something does."""
    refusals: int = 0
    """Times that the store refused one."""
    reason: str = ""
    """Why it refused last."""

    def put(self, key: str, data: bytes) -> None:
        """Takes a record, which `deliver` brings to the store."""
        self.waiting.setdefault(key, data)

    def deliver(self) -> None:
        """Puts what waits, each for itself; a store that does not answer at all is asked no more until the next time."""
        for key in list(self.waiting):
            try:
                self.store.put_if_absent(key, self.waiting[key])
            except STORE_ERRORS as error:
                self.refusals += 1
                self.reason = masked(str(error))
                if isinstance(error, Unreachable):
                    return
            else:
                del self.waiting[key]

    def close(self) -> None:
        """The run ends: tries a few times to deliver what still waits."""
        for _ in range(CLOSING_TRIES):
            self.deliver()

    @property
    def notice(self) -> str:
        """What a person should know of it; empty where the store refused nothing."""
        if not self.refusals:
            return ""
        left = f"{len(self.waiting)} of them are not in the store" if self.waiting else "all are there now"
        return f"the store refused records of attempts or of quarantine {self.refusals} times; {left}: {self.reason}"

"""Backends that answer as a test wants it, without any process."""

from __future__ import annotations

from orchestrator.domain import Failure, FailureClass, UnitReport, UnitStatus
from orchestrator.ports import AttemptEnded


class Wrong:
    """A backend of which every attempt finds its units' model at fault."""

    def __init__(self, largest_nodes=None):
        self.ended, self.largest = [], largest_nodes or {}

    def capacity(self):
        return {"cpu": 2}

    def largest_nodes(self):
        return self.largest

    def submit(self, assignment):
        failure = Failure(failure_class=FailureClass.BAD_INPUT, error="no tensors")
        reports = tuple(
            UnitReport(key=key, status=UnitStatus.FAILED, failure=failure) for key in assignment.shard.units
        )
        self.ended.append(AttemptEnded(attempt_id=assignment.attempt_id, reports=reports))

    def wait(self, seconds):
        ended, self.ended = self.ended, []
        return ended

    def cancel(self, attempt_id, *, force):
        raise AssertionError("nobody cancels")

    def close(self):
        pass

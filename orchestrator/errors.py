"""Pure. Every error prunefleet raises on purpose; the docstring is the default message."""

from __future__ import annotations


class PrunefleetError(Exception):
    """Something went wrong in prunefleet."""

    exit_code = 1

    def __init__(self, message: str | None = None):
        super().__init__(message or type(self).__doc__)


class SpecError(PrunefleetError):
    """The fleet file is not valid."""

    exit_code = 2


class UsageError(PrunefleetError):
    """The command was called in a way that cannot work."""

    exit_code = 2


class NoStableBytes(PrunefleetError):
    """This value has no stable bytes, so it cannot be part of an identity."""


class Unreachable(PrunefleetError):
    """A service that is needed does not answer."""

    exit_code = 69


class Failing(Unreachable):
    """A service that is needed answers, and fails at what it was asked for."""


class NotPermitted(PrunefleetError):
    """The credentials in use do not permit this."""

    exit_code = 77


class StoreError(PrunefleetError):
    """The object store did not do what was asked."""

    exit_code = 69


class NotFound(StoreError):
    """There is no such object in the store."""


class Damaged(StoreError):
    """Bytes are not what their digest says."""


class RegistryError(PrunefleetError):
    """The registry cannot be read."""

    exit_code = 69


class ModelChanged(RegistryError):
    """The model version is no longer the one that was planned."""


class DataChanged(PrunefleetError):
    """A file of a data set is no longer the one that was planned with."""

    exit_code = 75


class NoSuchVersion(RegistryError):
    """There is no such version in the registry."""


class AliasMoved(RegistryError):
    """Somebody else moved the alias meanwhile."""


class NotSupported(StoreError):
    """The object store cannot do this at all."""


STORE_ERRORS = (StoreError, Unreachable, NotPermitted)
"""What requests to an object store fail with."""


class QueryError(PrunefleetError):
    """The query cannot be answered."""

    exit_code = 2


class UnknownRun(UsageError):
    """There is no run with that id in the store."""


class GateRefused(PrunefleetError):
    """The verdict of its gates does not allow to promote this version."""

    exit_code = 3


class GateUndecided(GateRefused):
    """Its gates could not tell, and nothing says to promote what they cannot tell."""

    exit_code = 5


class Interrupted(PrunefleetError):
    """The run was stopped before its end; the same command goes on where it stopped."""

    exit_code = 75


class OutputLost(PrunefleetError):
    """What a command prints cannot be written."""

    exit_code = 74


class BrokenInvariant(PrunefleetError):
    """prunefleet contradicts itself; this is a bug."""


class EnvironmentTooOld(PrunefleetError):
    """A library is older than what prunefleet can safely use."""

    exit_code = 2

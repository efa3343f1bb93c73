"""Pure. Proposals to move an alias and approvals of them: what each says, and why one does not count.

An approval names its proposal by the digest of all that the proposal says: the very bytes of the artifact, its verdict, and the
alias as it stood. So it cannot be used for another model, another alias, or a second time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import NotPermitted, UsageError
from orchestrator.identity import canonical, digest
from orchestrator.specs.promotion import PromotionSpec, SignerSpec, key_bytes

SCHEMA = 1
SKEW_SECONDS = 300.0
"""By which clocks of two people may differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """That an alias be moved, said so exactly that nothing else can be meant."""

    fleet: str
    registry: str
    registry_url: str
    model: str
    alias: str
    version: str
    """To which it is to point."""
    artifact_digest: str
    verdict_key: str
    verdict: str
    recipe: str
    previous_version: str | None
    """To which it points now."""
    moves: int
    """How often the alias was moved before, so that no approval outlives a move, even one there and back."""
    proposed_at: float
    proposed_by: str
    reason: str

    @property
    def id(self) -> str:
        """Names the proposal: the digest of all that it says."""
        return digest({"type": "prunefleet.proposal", "schema": SCHEMA, **_values(self)})

    def same_move(self, other: Proposal) -> bool:
        """Whether both mean the same move from the same state, whoever proposed it when and why."""
        said = ("proposed_at", "proposed_by", "reason")
        mine, theirs = _values(self), _values(other)
        return all(mine[name] == theirs[name] for name in mine if name not in said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """That somebody agrees to a proposal."""

    proposal: str
    """Its id."""
    actor: str
    at: float
    signature: str = ""
    """`ed25519:` or `hmac-sha256:` and base64; empty where no signers are named."""


def proposal_of(value: Any) -> Proposal:
    """A proposal from JSON. Errors: ValueError."""
    return Proposal(**_checked(value, Proposal))


def approval_of(value: Any) -> Approval:
    """An approval from JSON. Errors: ValueError."""
    return Approval(**_checked(value, Approval))


def statement(approval: Approval) -> bytes:
    """What is signed."""
    said = {name: value for name, value in _values(approval).items() if name != "signature"}
    return canonical({"type": "prunefleet.approval", "schema": SCHEMA, **said})


def stale(proposal: Proposal, wanted: Proposal, rule: PromotionSpec, at: float) -> str:
    """Why a proposal cannot be used for the move that is wanted now; empty if it can."""
    if not proposal.same_move(wanted):
        return "it is about another move, or the alias has been moved since"
    return too_old(proposal.proposed_at, rule, at)


def too_old(said_at: float, rule: PromotionSpec, at: float) -> str:
    """Why something said at that moment counts no more, or not yet; empty if it counts."""
    if said_at > at + SKEW_SECONDS:
        return "its time lies in the future"
    if at - said_at > rule.max_age:
        return "it is older than max_age"
    return ""


def counted(
    proposal_id: str,
    approvals: Iterable[Approval],
    rule: PromotionSpec,
    environment: Mapping[str, str],
    at: float | None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the different people who have approved, and why other approvals do not count. `at`: None asks for no age."""
    names: dict[str, None] = {}
    refused = []
    for approval in approvals:
        why = _refusal(proposal_id, approval, rule, environment, at)
        if why:
            refused.append(f"approval by {approval.actor!r}: {why}")
        else:
            names.setdefault(approval.actor)
    return tuple(sorted(names)), tuple(refused)


def _refusal(
    proposal_id: str,
    approval: Approval,
    rule: PromotionSpec,
    environment: Mapping[str, str],
    at: float | None,
) -> str:
    if approval.proposal != proposal_id:
        return "it is of another proposal"
    if at is not None and (why := too_old(approval.at, rule, at)):
        return why
    if not rule.signers:
        return ""
    signer = rule.signers.get(approval.actor)
    if signer is None:
        return "there is no such signer"
    return signature_problem(signer, approval, environment)


def signature_problem(signer: SignerSpec, approval: Approval, environment: Mapping[str, str]) -> str:
    """Why an approval does not bear the signer's signature; empty if it does."""
    kind, _, text = approval.signature.partition(":")
    try:
        signature = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return "its signature is no base64"
    if signer.secret_env is not None:
        secret = environment.get(signer.secret_env)
        if not secret:
            return f"the environment variable {signer.secret_env} is not set, so it cannot be checked"
        expected = _mac(secret, statement(approval))
        same = kind == "hmac-sha256" and hmac.compare_digest(expected, signature)
        return "" if same else "its signature is not that of the signer's secret"
    assert signer.public_key is not None
    same = kind == "ed25519" and _verifies(key_bytes(signer.public_key), signature, statement(approval))
    return "" if same else "its signature is not that of the signer's key"


def signed(
    approval: Approval, signer: SignerSpec | None, environment: Mapping[str, str], key: bytes | None
) -> Approval:
    """The approval with its signature: by the PEM private key, or by the signer's shared secret.

    Errors: UsageError, if what is needed for it is not there; NotPermitted, if the key is not the signer's.
    """
    if signer is None:
        return approval
    if signer.secret_env is not None:
        secret = environment.get(signer.secret_env)
        if not secret:
            raise UsageError(f"set the environment variable {signer.secret_env} to sign as {approval.actor}")
        return _with(approval, "hmac-sha256", _mac(secret, statement(approval)))
    if key is None:
        raise UsageError(f"{approval.actor} signs with a private key; name its PEM file with --key")
    serialization, ed25519, _ = _cryptography()
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        raise UsageError(f"the private key cannot be read: {error}") from None
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise UsageError("the private key is not Ed25519; `openssl genpkey -algorithm ed25519` makes one")
    found = _with(approval, "ed25519", private.sign(statement(approval)))
    if problem := signature_problem(signer, found, environment):
        raise NotPermitted(f"this key is not that of {approval.actor} in the fleet file: {problem}")
    return found


def _with(approval: Approval, kind: str, signature: bytes) -> Approval:
    text = f"{kind}:{base64.b64encode(signature).decode()}"
    return Approval(proposal=approval.proposal, actor=approval.actor, at=approval.at, signature=text)


def _mac(secret: str, data: bytes) -> bytes:
    return hmac.new(secret.encode(), data, hashlib.sha256).digest()


def _verifies(key: bytes, signature: bytes, data: bytes) -> bool:
    _, ed25519, invalid = _cryptography()
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(key).verify(signature, data)
    except invalid:
        return False
    return True


def _cryptography() -> tuple[Any, Any, type[Exception]]:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise UsageError("signers with public keys need `pip install 'prunefleet[signing]'`") from None
    return serialization, ed25519, InvalidSignature


_KINDS: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "str | None": (str, type(None)),
}


def _values(said: Proposal | Approval) -> dict[str, Any]:
    return {name: getattr(said, name) for name in said.__dataclass_fields__}


def _checked(value: Any, kind: type) -> dict[str, Any]:
    fields: Mapping[str, Any] = kind.__dataclass_fields__  # type: ignore[attr-defined]
    if not isinstance(value, dict) or set(value) != set(fields):
        raise ValueError(
            f"these are not the keys of {'an' if kind is Approval else 'a'} {kind.__name__.lower()}"
        )
    for name, field in fields.items():
        if not isinstance(value[name], _KINDS[field.type]) or isinstance(value[name], bool):
            raise ValueError(f"{name} is {value[name]!r}")
        if isinstance(value[name], float) and not math.isfinite(value[name]):
            raise ValueError(f"{name} is {value[name]!r}")
    return value

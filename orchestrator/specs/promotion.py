"""Pure. The part of a fleet file about promotion: which aliases need whose approval."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from orchestrator.specs.nights import Duration, Variable
from orchestrator.specs.parts import Name, Part

KEY_BYTES = 32
SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")
"""What stands before an Ed25519 key in the line that `openssl pkey -pubout` prints (RFC 8410)."""


def key_bytes(text: str) -> bytes:
    """The 32 bytes of an Ed25519 public key. Errors: ValueError."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a public key is base64: the middle line of `openssl pkey -pubout`") from None
    raw = data.removeprefix(SPKI_PREFIX)
    if len(raw) != KEY_BYTES:
        raise ValueError("this is no Ed25519 public key: `openssl genpkey -algorithm ed25519` makes one")
    return raw


def _public_key(text: str) -> str:
    key_bytes(text)
    return text


class SignerSpec(Part):
    """A person or program whose approval counts."""

    public_key: Annotated[str, AfterValidator(_public_key)] | None = None
    """Ed25519, in base64: the middle line of what `openssl pkey -pubout` prints."""
    secret_env: Variable | None = None
    """In its place: the environment variable that holds a shared secret (HMAC). Whoever can check with it can also sign."""

    @model_validator(mode="after")
    def _one_key(self) -> SignerSpec:
        if (self.public_key is None) == (self.secret_env is None):
            raise ValueError("a signer has either a public_key or a secret_env")
        return self


class PromotionSpec(Part):
    """Rules for moving aliases by hand; nights move none of these."""

    aliases: Annotated[tuple[Name, ...], Field(min_length=1)]
    """To which the rules apply, such as [champion]."""
    approvals: Annotated[int, Field(ge=1, le=10)] = 2
    """How many different people must agree; whoever proposes is one of them."""
    signers: Mapping[Name, SignerSpec] = {}
    """Whose approvals count, and by which key each is told. Without them names are taken as they are told."""
    max_age: Duration = 7 * 86_400.0
    """After which a proposal and its approvals count no more."""

    @model_validator(mode="after")
    def _enough(self) -> PromotionSpec:
        if self.signers and len(self.signers) < self.approvals:
            raise ValueError(
                f"{self.approvals} approvals are asked for, but there are {len(self.signers)} signers"
            )
        keys = [
            key_bytes(signer.public_key) if signer.public_key else signer.secret_env
            for signer in self.signers.values()
        ]
        if len(set(keys)) < len(keys):
            raise ValueError("two signers have the same key, so that one person could approve twice")
        return self

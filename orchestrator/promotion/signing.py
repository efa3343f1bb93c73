"""Effects. Signs what is published (OpenSSF model signing, with a key, without a network) and checks signatures."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from importlib import metadata, util
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError

SIGNING_KEY = "PRUNEFLEET_SIGNING_KEY"
"""An environment variable: the file of an elliptic curve's private key (PEM). Without it nothing is signed."""
PASSWORD = "PRUNEFLEET_SIGNING_KEY_PASSWORD"
VERIFYING_KEY = "PRUNEFLEET_VERIFYING_KEY"
"""An environment variable: the file of the public key (PEM) with which `verify` expects every published version to be signed."""
SIGNATURE = "model.sig"
PROVENANCE = "provenance.intoto.json"
CURVES = ("secp256r1", "secp384r1", "secp521r1")


def check_key(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The file of the private key, or None if nothing is to be signed; called before a run, so that none ends for the lack of it.

    Errors: UsageError.
    """
    named = environment.get(SIGNING_KEY)
    if not named:
        return None
    _check_installed(SIGNING_KEY)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    password = environment.get(PASSWORD)
    try:
        key = load_pem_private_key(Path(named).read_bytes(), password.encode() if password else None)
    except OSError as error:
        raise UsageError(f"{SIGNING_KEY}: {named} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):  # their words may quote the key
        raise UsageError(
            f"{SIGNING_KEY}: {named} is no private key in PEM, or {PASSWORD} does not fit; "
            f"`openssl ecparam -name prime256v1 -genkey -noout -out {Path(named).name}` makes one"
        ) from None
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise UsageError(f"{SIGNING_KEY}: {named} is no key of the curves {', '.join(CURVES)}")
    return Path(named)


def sealed(statement: Callable[[], Mapping[str, Any]]) -> Callable[[Path], None] | None:
    """What puts the statement beside a version's files and signs them all, or None if no key is configured. Errors: UsageError."""
    key = check_key()
    if key is None:
        return None

    def seal(directory: Path) -> None:
        from model_signing import hashing, signing

        text = json.dumps(statement(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        (directory / PROVENANCE).write_text(text, encoding="utf-8")
        signature = directory / SIGNATURE
        ignored = hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=True)
        signer: Any = signing.Config().set_hashing_config(ignored)
        password = os.environ.get(PASSWORD)  # bytes, whatever its annotation says: cryptography takes no text
        signer.use_elliptic_key_signer(private_key=key, password=password.encode() if password else None)
        signer.sign(directory, signature)

    return seal


def verifying_key(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The file of the public key, or None if signatures are not to be checked. Errors: UsageError."""
    named = environment.get(VERIFYING_KEY)
    if not named:
        return None
    _check_installed(VERIFYING_KEY)
    if not Path(named).is_file():
        raise UsageError(f"{VERIFYING_KEY}: there is no file {named}")
    return Path(named)


def problem_of_seal(directory: Path, key: Path, files: Mapping[str, str]) -> str:
    """Why a version's signature or provenance does not hold; empty if both do. `files` is what its artifact is: path -> SHA-256."""
    from model_signing import hashing, verifying

    directory = (
        directory.resolve()
    )  # an open directory's path under /proc is a link, which the library refuses
    signature = directory / SIGNATURE
    if not signature.is_file():
        return f"it is not signed: {SIGNATURE} is missing, although {VERIFYING_KEY} is set"
    config = hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=True)
    try:
        verifier = verifying.Config().set_hashing_config(config).use_elliptic_key_verifier(public_key=key)
        verifier.verify(directory, signature)
    except Exception as error:  # of a dozen kinds, by what is wrong with the bundle, which is not ours
        return f"its signature does not hold: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    try:
        told = json.loads((directory / PROVENANCE).read_bytes())
        subjects = {one["name"]: one["digest"]["sha256"] for one in told["subject"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{PROVENANCE} cannot be read: {type(error).__name__}"
    return "" if subjects == dict(files) else f"{PROVENANCE} is about other files"


def builder_versions() -> dict[str, str]:
    """What made an artifact: release and libraries."""
    from orchestrator.release import release

    found = {name: metadata.version(name) for name in ("torch", "transformers", "numpy")}
    return {"prunefleet": release(), **found}


def _check_installed(variable: str) -> None:
    if util.find_spec("model_signing") is None or util.find_spec("OpenSSL") is None:
        raise UsageError(
            f"{variable} is set, but model-signing is not installed: pip install 'prunefleet[signing]'"
        )

"""Keys that sign, and the standard tool that verifies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from orchestrator.promotion import signing

TOOL = Path(sys.executable).parent / "model_signing"
PASSWORD = "a password of a key"


def write_key(path, key, password=None):
    form = (
        serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    )
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, form))
    public = path.with_suffix(".pub")
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return path, public


def tool_accepts(directory, public):
    done = subprocess.run(
        [
            str(TOOL), "verify", "key", str(directory),
            "--signature", str(directory / signing.SIGNATURE), "--public_key", str(public),
        ],
        capture_output=True, text=True, timeout=120, env={**os.environ, "HTTPS_PROXY": "http://127.0.0.1:9"},
    )  # fmt: skip
    return done.returncode == 0

"""Effects. Reads what a sentence encoder's modules.json says of the way from tokens to one embedding, as hostile input.

The layout is that of the library sentence-transformers: the first module is the model beside it, each further one is a folder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tasks.contract import BadInput, Finding, printable
from tasks.files.headers import open_regular
from tasks.files.strictjson import NotStrict, decoded, parse_object

MODULES = "modules.json"
MODULE_FILES = ("config.json", "model.safetensors")
"""What a module's folder may hold."""
POOLINGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""Ways from tokens to one vector, and what each was called when it was a switch; several are put side by side in this order."""
MEAN: tuple[str, ...] = ("mean",)
_MAX_BYTES = 1_000_000
_MODULE = re.compile(r"[0-9]+_[A-Za-z0-9_]+")
_WITHOUT_WEIGHTS = frozenset({"Transformer", "Pooling", "Normalize", "Dropout"})


def is_module(folder: str) -> bool:
    """Whether a folder in a sentence encoder's has the name of one of its modules."""
    return bool(_MODULE.fullmatch(folder))


def pooling_of(directory: Path) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    """How the tokens of a text become one vector: the mean, unless modules.json says otherwise; and what is not run.

    Errors: BadInput, of a modules.json or a config of its Pooling that cannot be read.
    """
    if not (directory / MODULES).exists():
        return MEAN, ()
    pooling, findings = MEAN, []
    for folder, kind in _modules(directory):
        if kind == "Pooling":
            pooling = _pooling(directory, folder)
        elif kind not in _WITHOUT_WEIGHTS:
            there = is_module(folder) and (directory / folder / "model.safetensors").exists()
            copied = "it is copied" if there else "its weights are not there as safetensors"
            message = f"the module {kind[:80]} is not run: what counts is the embedding before it; {copied}"
            findings.append(Finding(kind="unused_module", subject=printable(folder)[:200], message=message))
    return pooling, tuple(findings)


def _modules(directory: Path) -> list[tuple[str, str]]:
    """(folder, class) of each."""
    try:
        with open_regular(directory / MODULES) as stream:
            listed = decoded(stream.read(_MAX_BYTES))
    except NotStrict as error:
        raise _refusal(str(error)) from None
    match listed:
        case list() if all(isinstance(one, dict) for one in listed):
            found = [(one.get("path"), one.get("type")) for one in listed]
            if all(isinstance(path, str) and isinstance(kind, str) for path, kind in found):
                return [(path, kind.rpartition(".")[2]) for path, kind in found]
    raise _refusal("it is no list of modules, each with a path and a type")


def _pooling(directory: Path, folder: str) -> tuple[str, ...]:
    file = f"{folder}/config.json"
    if not is_module(folder) or not (directory / folder / "config.json").exists():
        raise _refusal(f"it names the Pooling {folder[:80]!r}, whose config.json is not there")
    with open_regular(directory / folder / "config.json") as stream:
        values = parse_object(
            stream.read(_MAX_BYTES), what="the pooling's config", file=file, max_bytes=_MAX_BYTES
        )
    asked: Any = values.get("pooling_mode")
    if asked is None:
        asked = [mode for mode, switch in POOLINGS.items() if values.get(switch) is True] or [*MEAN]
    modes = [asked] if isinstance(asked, str) else asked
    if (
        not isinstance(modes, list)
        or not modes
        or not all(isinstance(mode, str) and mode in POOLINGS for mode in modes)
    ):
        raise _refusal(f"pooling_mode is {asked!r:.80}, and known are {', '.join(POOLINGS)}", file)
    return tuple(modes)


def _refusal(why: str, file: str = MODULES) -> BadInput:
    do = "Save the encoder again with sentence-transformers."
    return BadInput("the encoder's modules cannot be used", why=why, do=do, file=file)

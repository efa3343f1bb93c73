"""Effects. Opens a written artifact as its users will and runs one example, here or in a process that shares nothing."""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

SPARE_BYTES = 4 << 30
"""What the clean process may take beside three times the weights; torch alone takes a part of it."""
SPARE_SECONDS = 120.0
BYTES_PER_SECOND = 20e6
"""A process that reads, checks and runs fewer bytes in a second than this hangs."""
_TOKENS = 8
_FORBIDDEN = (
    "socket.connect",
    "socket.getaddrinfo",
    "pickle.find_class",
    "subprocess.Popen",
    "os.exec",
    "os.system",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopened:
    """What an artifact turned out to be."""

    family: str
    parameters: int
    """Of the module, shared ones once."""
    zeros: dict[str, int]
    """Of the stored tensors that were asked for."""
    is_finite: bool
    """Whether every number that the model answers to one example is."""


def reopen(directory: Path, counted: Sequence[str]) -> Reopened:
    """Loads an artifact anew, counts zeros, and runs one example on the CPU.

    Errors: BadInput if it does not load (a weight that is not finite, a config that does not fit); ArtifactWrong if
    weights that the config shares do not share memory.
    """
    import torch

    from tasks.examples.batches import logits_of
    from tasks.loading.models import load_afresh

    model = load_afresh(directory)
    _check_shared(model)
    checkpoint = model.checkpoint
    zeros = {}
    for name in counted:
        tensor = checkpoint.read(name)
        zeros[name] = tensor.numel() - int(torch.count_nonzero(tensor))
    with torch.inference_mode():
        answer = logits_of(model, _one_example(model))
    return Reopened(
        family=model.family,
        parameters=sum(weight.numel() for weight in model.module.parameters()),
        zeros=zeros,
        is_finite=bool(torch.isfinite(answer).all()),
    )


def reopen_in_a_clean_process(directory: Path, counted: Sequence[str]) -> Reopened:
    """The same in a fresh Python, which may neither unpickle, nor reach a network, nor start a process.

    Errors: ArtifactWrong, with what that process said, also if it takes too long or too much memory.
    """
    from tasks.writing.recount import ArtifactWrong

    size = sum(file.stat().st_size for file in directory.iterdir())
    limits = {"bytes": 3 * size + SPARE_BYTES, "directory": str(directory), "counted": list(counted)}
    seconds = SPARE_SECONDS + size / BYTES_PER_SECOND
    command = [sys.executable, "-P", "-m", "tasks.writing.reopening"]
    try:
        answer = subprocess.run(
            command, input=json.dumps(limits), capture_output=True, text=True, timeout=seconds, env=_environment(),
            cwd="/", check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ArtifactWrong(f"a clean process did not open the artifact within {seconds:.0f} s") from None
    if answer.returncode:
        told = " ".join(answer.stderr.split())[-600:] or "nothing"
        raise ArtifactWrong(
            f"a clean process ended with {answer.returncode} on the artifact; it said: {told}"
        )
    return Reopened(**json.loads(answer.stdout))


def main() -> None:
    """The clean process: what to do comes in as JSON, what was found goes out as JSON."""
    asked: dict[str, Any] = json.loads(sys.stdin.read())
    resource.setrlimit(resource.RLIMIT_DATA, (asked["bytes"], asked["bytes"]))
    for name in (
        "torch",
        "transformers",
        "tasks.examples.batches",
        "tasks.loading.models",
        "tasks.writing.recount",
    ):
        importlib.import_module(name)  # before things are forbidden that imports may do
    sys.addaudithook(_forbid)
    found = reopen(Path(asked["directory"]), asked["counted"])
    print(json.dumps(asdict(found)))


def _forbid(event: str, _arguments: tuple[Any, ...]) -> None:
    if event.startswith(_FORBIDDEN):
        _refuse(event)


def _refuse(event: str) -> NoReturn:
    raise PermissionError(f"opening the artifact led to {event}, which it must not")


def _environment() -> dict[str, str]:
    """Nothing of this process but where Python and its packages lie."""
    import tasks

    home = str(Path(tasks.__path__[0]).parent)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    return {
        **kept,
        "PYTHONPATH": home,
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "HOME": "/nonexistent",
    }


def _check_shared(model: Any) -> None:
    from tasks.writing.recount import ArtifactWrong

    tensors = model.module.state_dict(keep_vars=True)
    for first, names in model.naming.shared.items():
        places = {tensors[name].data_ptr() for name in names}
        if len(places) > 1:
            raise ArtifactWrong(
                f"{first} is shared by {len(names)} parts of the model and lies in {len(places)} places"
            )


def _one_example(model: Any) -> Any:
    """Tokens 0, 1, …, or zeros and ones in turn, in the shape that the model reads."""
    import numpy as np

    from tasks.examples.batches import batches
    from tasks.examples.fitting import Fitted, Item, expected_shape
    from tasks.examples.tokenizing import longest_text, vocabulary_size
    from tasks.loading.families import READS_TEXT

    content: np.ndarray[Any, Any]
    if model.family in READS_TEXT:
        content = np.arange(min(_TOKENS, longest_text(model)), dtype=np.int64) % vocabulary_size(model)
    else:
        shape = tuple(size or 32 for size in expected_shape(model))
        content = (np.indices(shape).sum(0) % 2).astype(np.float32)
    return next(batches(Fitted(items=(Item(number=0, slices={}, content=content),)), model))


if __name__ == "__main__":
    main()

"""Pure. What a task is given and what it returns: builtins only, so that importing it loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

TASK_VERSIONS: Mapping[str, int] = {"sensitivity": 5, "prune": 8, "evaluate": 3, "latency": 1}
"""Part of every unit key: raise a task's number when the same inputs would give other numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One unit as a task sees it: local files and JSON values, no registry, no store, no cluster."""

    model: Path
    """Hugging Face layout (config.json, *.safetensors), or config.json and a program (model.pt2); shared by every process of the node, never written to."""
    params: Mapping[str, Any]
    """The recipe's step, JSON values only; the keys are those of the task's params model in the spec."""
    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    """By role: `calibration` for sensitivity and prune, `evaluation` for evaluate and latency."""
    inputs: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    """Rows that earlier units wrote, by table name (prune reads `sensitivity`)."""
    output: Path | None = None
    """An empty directory for the artifact of a task that makes one."""
    dense: Path | None = None
    """The model that `model` was pruned from, for a task that looks at both."""
    part: int = 0
    parts: int = 1
    """This unit does the `part`-th of `parts` slices of the model's layers (sensitivity only)."""
    seed: int = 0
    threads: int = 1
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A local data file and how to read it."""

    path: Path
    kind: str
    """`text`: JSON lines or Parquet with a `text` column. `arrays`: Parquet with a flat float list column `inputs`.
    `choices`: JSON lines with a `text`, its `choices`, and as `label` the right one or its number from 0."""
    split: str
    """Rows whose `split` column equals this; a file without that column has no splits and any name but `all` is an error."""
    slices: Sequence[str] = ()
    """Columns whose values name the groups on which quality is also measured."""
    shape: Sequence[int] = ()
    """`arrays` only: the shape of one example, e.g. [1, 8, 8]; empty means the flat vector."""
    samples: int | None = None
    """At most so many examples, the first ones of the split in file order; None means all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something a person should know that is no failure: a fallback, a skip, an unmatched pattern, a zero effect."""

    kind: str
    """A closed word such as `skipped_layer`, `unmatched_pattern`, `zero_effect`, `dead_input`."""
    subject: str
    """The layer, tensor or file it is about."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What a unit yields: rows by table name, and whether `Work.output` now holds an artifact."""

    tables: Mapping[str, Sequence[Row]]
    has_artifact: bool = False
    findings: Sequence[Finding] = ()


def printable(text: str) -> str:
    """The text on one line, with everything escaped that could move a terminal's cursor or is no Unicode text."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_of_memory(error: BaseException) -> bool:
    """Whether an error, Python's or torch's, says that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _MEMORY)


def raise_if_of_machine(error: BaseException) -> None:
    """Raises the error again if memory ran out or an accelerator failed: first in what else blames a model for any error."""
    if is_of_memory(error) or type(error).__name__ == "AcceleratorError":
        raise error


class BadInput(Exception):
    """The model, the dataset or the parameters are at fault; trying again cannot help."""

    def __init__(
        self, what: str, *, why: str, do: str, file: str = "", tensor: str = "", line: int | None = None
    ):
        self.what, self.why, self.do, self.file, self.tensor, self.line = what, why, do, file, tensor, line
        where = ", ".join(
            part
            for part in (
                file,
                f"tensor {tensor}" if tensor else "",
                f"line {line}" if line is not None else "",
            )
            if part
        )
        super().__init__(printable(f"{what}{f' ({where})' if where else ''}: {why}. {do}"))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.what, self.why, self.do, self.file, self.tensor, self.line)


def _rebuild(what: str, why: str, do: str, file: str, tensor: str, line: int | None) -> BadInput:
    return BadInput(what, why=why, do=do, file=file, tensor=tensor, line=line)

"""Effects. Tasks of EleutherAI's lm-evaluation-harness, turned once into examples that a data set's file holds.

A task of the harness may run Python of its own and renders its templates without a sandbox, so it is read where somebody has chosen to,
by this command; workers see text only. What goes over is what the harness would send to a model: its contexts, with the
examples shown before each question, and its continuations, letter for letter.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError

PACKAGE = "lm_eval"
QUESTIONS, TEXTS = "multiple_choice", "loglikelihood_rolling"
KINDS = {QUESTIONS: "choices", TEXTS: "text"}
"""Kind of data set by the harness's type of a task."""
MEASURED = {QUESTIONS: {"acc"}, TEXTS: {"word_perplexity", "byte_perplexity", "bits_per_byte"}}
SPLIT = "test"
_ARITY = 2

Row = Mapping[str, Any]


class HarnessError(UsageError):
    """The tasks of lm-evaluation-harness cannot be turned into a data set."""


@dataclass(slots=True)
class Taken:
    """What became of one task."""

    task: str
    kind: str
    """Of the data set: `choices` or `text`."""
    rows: list[Row] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    """Examples that have no place in a data set, by reason."""
    not_measured: tuple[str, ...] = ()
    """Metrics of the task that prunefleet does not compute."""


def take(
    names: Sequence[str],
    *,
    folder: Path | None = None,
    shots: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[Taken]:
    """The examples of these tasks, groups or tags, in the harness's order; with `folder`, of the tasks there and no others.

    `shots` examples are shown before each (default: what the task says), drawn with `seed`; of each task the first `limit` are
    taken. Errors: HarnessError, if the package is missing, a task is unknown, cannot be built, or is of a type that has no data set.
    """
    tasks = _tasks(names, folder)
    kinds = {KINDS.get(task.OUTPUT_TYPE) for task in tasks.values()}
    if None in kinds:
        refused = {
            name: str(task.OUTPUT_TYPE) for name, task in tasks.items() if task.OUTPUT_TYPE not in KINDS
        }
        raise HarnessError(f"only tasks of type {' and '.join(KINDS)} become data sets, not {_few(refused)}")
    if len(kinds) > 1:
        raise HarnessError(
            f"questions and texts are data sets of their own: {_few({name: task.OUTPUT_TYPE for name, task in tasks.items()})}"
        )
    return [_taken(name, task, shots, limit, seed) for name, task in tasks.items()]


def _tasks(names: Sequence[str], folder: Path | None) -> dict[str, Any]:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise HarnessError(
            f"lm-evaluation-harness cannot be imported ({error}): pip install 'prunefleet[lm-eval]'"
        ) from error
    logging.getLogger(PACKAGE).setLevel(logging.ERROR)
    if folder is not None and not folder.is_dir():
        raise HarnessError(f"{folder} is no folder of tasks")
    manager = TaskManager(include_path=str(folder) if folder else None, include_defaults=folder is None)
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        place = folder or f"lm-evaluation-harness {version(PACKAGE)}"
        listed = "" if folder else "; `lm-eval ls tasks` lists them"
        raise HarnessError(f"{place} has no task, group or tag {', '.join(map(repr, unknown))}{listed}")
    try:
        found: dict[str, Any] = manager.load(list(dict.fromkeys(names)))["tasks"]
    except Exception as error:  # whatever a task's own code and its data may raise
        raise HarnessError(f"a task of {', '.join(names)} cannot be loaded: {_reason(error)}") from error
    return found


def _taken(name: str, task: Any, shots: int | None, limit: int | None, seed: int) -> Taken:
    taken = Taken(task=name, kind=KINDS[task.OUTPUT_TYPE])
    try:
        if shots is not None:
            task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=seed)
        task.build_all_requests(limit=limit, rank=0, world_size=1)
        source = f"{PACKAGE} {version(PACKAGE)} {name} {task.VERSION} {task.config.num_fewshot or 0}-shot"
        taken.not_measured = tuple(sorted(set(task.aggregation()) - MEASURED[task.OUTPUT_TYPE]))
        for requests in _by_document(task.instances):
            content = _question(task, requests) if task.OUTPUT_TYPE == QUESTIONS else _text(requests)
            if isinstance(content, str):
                taken.left_out[content] = taken.left_out.get(content, 0) + 1
            else:
                taken.rows.append({**content, "task": name, "split": SPLIT, "source": source})
    except Exception as error:  # the same
        raise HarnessError(f"the examples of {name} cannot be built: {_reason(error)}") from error
    return taken


def _by_document(instances: Sequence[Any]) -> Iterator[list[Any]]:
    found: dict[int, list[Any]] = {}
    for one in instances:
        found.setdefault(one.doc_id, []).append(one)
    yield from found.values()


def _question(task: Any, requests: Sequence[Any]) -> Row | str:
    """A row, or why there is none."""
    answers = task.doc_to_choice(requests[0].doc)
    label = task.doc_to_target(requests[0].doc)
    pairs = [one.args[:_ARITY] for one in requests][
        : len(answers)
    ]  # what follows is the answers without a question
    if any(len(one.args) > _ARITY for one in requests):
        return "it comes with a picture or a sound"
    if len({context for context, _ in pairs}) != 1:
        return "each answer has a text of its own before it"
    if isinstance(label, str):
        label = answers.index(label) if label in answers else None
    if not isinstance(label, int) or not 0 <= label < len(answers):
        return "not exactly one answer is right"
    choices = [continuation for _, continuation in pairs]
    if len(set(choices)) < len(choices) or len(choices) < _ARITY or not all(choices):
        return "its answers are not two or more different ones"
    return {"text": pairs[0][0], "choices": choices, "label": label}


def _text(requests: Sequence[Any]) -> Row | str:
    text = requests[0].args[0]
    return {"text": text} if text.strip() else "it is empty"


def _few(shown: Mapping[str, str]) -> str:
    first = [f"{name} ({what})" for name, what in list(shown.items())[:3]]
    return ", ".join(first) + (f" and {len(shown) - len(first)} more" if len(shown) > len(first) else "")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]

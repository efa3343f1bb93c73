"""Effects. Runs a model again only from the block on in which a weight has changed, with equal results.

A model is a chain of blocks. What leaves a block depends on nothing behind it, so a trial that changes a weight of
block k may take what left block k - 1 from memory. Which weight is first used where is seen and not assumed, and the
dense losses are recomputed from each place before it is relied upon.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tasks.evaluation import Scores, score
from tasks.examples.batches import Batch
from tasks.loading.models import Model
from tasks.replaying.chains import Chain, tensors_in, watching

MEMORY_BYTES = 512 * 2**20
"""Of remembered outputs; batches that do not fit run in full."""
TOLERANCE = 1e-6
"""By which a replayed dense loss may differ, relative to the loss or absolute below 1."""


@dataclass(slots=True, kw_only=True)
class Replay:
    """Scores batches from a stage on: stage k is what follows the first k blocks of the chain."""

    model: Model
    batches: Sequence[Batch]
    dense: Sequence[Scores]
    """Of each batch, by a full run."""
    chain: Chain
    stages: Sequence[int]
    """All that will be moved to, ascending; each costs about one run of the dense model from there on."""
    stage: int = 0
    left_out: set[int] = field(default_factory=set)
    """Batches that did not fit into memory at some stage, and run in full from there on."""
    problem: str = ""
    """Why nothing is skipped any more, if so."""
    _now: dict[int, Any] = field(default_factory=dict)
    """What leaves block `stage` - 1, by batch."""
    _next: dict[int, Any] = field(default_factory=dict)
    """What leaves the last block before the next stage, by batch."""

    def score(self, index: int) -> Scores:
        """The scores of a batch, equal to a full run's if no weight that is used before the stage has changed."""
        with ExitStack() as stand_ins:
            if index in self._now:
                for block in self.chain[: self.stage]:
                    stand_ins.enter_context(_standing_in(block, self._now[index]))
            return score(self.model, self.batches[index])

    def move_to(self, stage: int) -> None:
        """Goes on to one of `stages`, with the dense weights in place; if that gives other losses, nothing is skipped."""
        if stage == self.stage or self.problem:
            return
        try:
            if not self._next:
                self._run_dense(stage)
            self.stage, self._now, self._next = stage, self._next, {}
            self._run_dense(next((later for later in self.stages if later > stage), None))
        except Exception as error:  # a model's code may fail in any manner when blocks of it are skipped
            self.problem = f"{type(error).__name__}: {str(error)[:200]}"
        if len(self.left_out) == len(self.batches):
            self.problem = f"the outputs of a block do not fit into {MEMORY_BYTES} bytes"
        if self.problem:
            self._now, self._next = {}, {}

    def _run_dense(self, next_stage: int | None) -> None:
        """Checks that the batches give the dense losses from here, and remembers what the next stage starts from."""
        held = 0
        for index in range(len(self.batches)):
            if index in self.left_out:
                continue
            seen: list[Any] = []
            with ExitStack() as watch:
                if next_stage is not None:
                    watch.enter_context(_remembering(self.chain[next_stage - 1], seen))
                losses = self.score(index).losses
            if not torch.allclose(losses, self.dense[index].losses, rtol=TOLERANCE, atol=TOLERANCE):
                raise ArithmeticError(f"running from block {self.stage} on gives other losses")
            for output in seen:
                if held + _bytes(output) <= MEMORY_BYTES // 2:  # the other half is for this stage's own
                    held += _bytes(output)
                    self._next[index] = output
                else:
                    self.left_out.add(index)


def _remembering(block: nn.Module, seen: list[Any]) -> AbstractContextManager[None]:
    return watching(block, lambda output: seen.append(_copied(output)))


def _bytes(value: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors_in(value))


def _copied(value: Any) -> Any:
    """The same nested value over memory of its own, because what follows a block may write to what it is given."""
    kind = type(value)
    if isinstance(value, torch.Tensor):
        return value.clone()
    if kind is tuple or kind is list:
        return kind(_copied(member) for member in value)
    if kind is dict:
        return {key: _copied(member) for key, member in value.items()}
    if value is None or kind in (bool, int, float, str):
        return value
    raise TypeError(f"a block's output holds a {kind.__name__}")


@contextmanager
def _standing_in(block: nn.Module, output: Any) -> Iterator[None]:
    """Lets the block give what it once gave, without running; its attributes stay what they are."""
    before = vars(block).get("forward")
    vars(block)["forward"] = lambda *given, **named: _copied(output)
    try:
        yield
    finally:
        del vars(block)["forward"]
        if before is not None:
            vars(block)["forward"] = before

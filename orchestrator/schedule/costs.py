"""Pure. Seconds, bytes and money of a unit on a pool: a prior from sizes, corrected by what past units really took."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.domain import Estimate, Pool, TaskName, Unit

CPU_FLOPS_PER_CORE = 2e10  # a core of 2020s servers in fp32 matrix products as torch reaches it
GPU_FLOPS = 5e13  # a data-centre GPU in half precision, at the efficiency of evaluation batches
COPY_BYTES_PER_SECOND = 3e8  # registry to node cache, digest included
TOKENS_PER_BYTE = 0.3  # of a dataset file; the split and the tokenizer are not known while planning
START_SECONDS = 0.3  # opening a model and its data
INTERPRETER_BYTES = 700 * 2**20  # a worker that has imported torch and transformers
HESSIANS_HELD_BYTES = 2**30  # as `tasks.statistics.hessians` limits them
GRADIENTS_HELD_BYTES = 2**30  # as `tasks.statistics.gradients` limits them
TRIALS_OF_UNITS = 100.0
"""Passes of the criterion `loss`: how many units a model has is not known before it is opened."""
COPIES_OF_A_CUT = 6.0
"""Dense and smaller model, and either once more in float32, where it is seen whether they compute the same."""
GRADIENTS_PER_WEIGHT = {"taylor": 1, "fisher": 2}  # float32 numbers while they are gathered
INPUTS_SQUARED_PER_PARAMETER = (
    12  # the widest layer's inputs squared are at most a twelfth, as in BERT; less in larger ones
)
BATCH_TOKENS = 4096  # of one step of distillation at most, as in `tasks.examples.batches`
DISTILLED_BYTES_PER_PARAMETER = 16  # float32 weights, both moments of Adam, and gradients
MOST_LOG_RATIO = 20.0  # half a billion times the prior
LOOKS = 8  # at the held-out loss, as in `tasks.recovering.distillation`
MOST_TIMINGS = 8  # as in `tasks.amounts.ladder`
PRIOR_WEIGHT = 2.0  # the prior counts as so many past units


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Past units of one task on one pool: how many, and the mean log ratio of measured to prior seconds."""

    units: float
    mean_log_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """The cost model: priors and the corrections learnt so far."""

    fits: Mapping[tuple[str, str], Fit] = field(default_factory=dict)
    """(task, pool) -> Fit."""

    def estimate(self, unit: Unit, pool: Pool, memory_factor: float = 1.0) -> Estimate:
        """Seconds and peak memory that the unit is expected to take on the pool."""
        return Estimate(
            seconds=prior_seconds(unit, pool) * self._correction(unit.task, pool.name),
            memory_bytes=int(memory_bytes(unit) * memory_factor),
        )

    def learnt(self, measured: Iterable[tuple[Unit, Pool, float]]) -> Costs:
        """A new model that has also seen these units and the seconds they took; old experience fades."""
        fits = dict(self.fits)
        for unit, pool, seconds in measured:
            if seconds <= 0:
                continue
            key = (unit.task.value, pool.name)
            old = fits.get(key, Fit(units=0.0, mean_log_ratio=0.0))
            ratio = math.log(seconds / prior_seconds(unit, pool))
            count = min(old.units + 1.0, 500.0)
            fits[key] = Fit(
                units=count, mean_log_ratio=old.mean_log_ratio + (ratio - old.mean_log_ratio) / count
            )
        return Costs(fits=fits)

    def to_json(self) -> dict[str, Any]:
        """Plain values for the store."""
        return {
            f"{task}|{pool}": [fit.units, fit.mean_log_ratio]
            for (task, pool), fit in sorted(self.fits.items())
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Costs:
        """What `to_json` wrote; anything else is ignored, since experience can be gathered anew."""
        fits = {}
        for key, pair in value.items():
            task, _, pool = key.partition("|")
            if pool and _is_fit(pair):
                fits[(task, pool)] = Fit(units=float(pair[0]), mean_log_ratio=float(pair[1]))
        return Costs(fits=fits)

    def _correction(self, task: TaskName, pool: str) -> float:
        fit = self.fits.get((task.value, pool))
        return math.exp(fit.mean_log_ratio * fit.units / (fit.units + PRIOR_WEIGHT)) if fit else 1.0


def _is_fit(pair: object) -> bool:
    """Units and the mean of their logarithms, such as runs can have led to."""
    if (
        not isinstance(pair, list)
        or len(pair) != 2
        or any(type(number) not in (int, float) for number in pair)
    ):
        return False
    units, mean = pair
    return bool(0 <= units < math.inf and abs(mean) <= MOST_LOG_RATIO)


def prior_seconds(unit: Unit, pool: Pool) -> float:
    """What sizes alone suggest: loading, then two FLOPs a parameter and token for each forward pass."""
    model = unit.model
    speed = (
        GPU_FLOPS * pool.gpus_per_shard
        if pool.has_gpus
        else CPU_FLOPS_PER_CORE * max(1.0, pool.cpus_per_shard)
    )
    seconds = START_SECONDS + model.bytes / COPY_BYTES_PER_SECOND
    if unit.task is TaskName.JUDGE:
        return 0.05
    data = unit.step.data
    tokens = data.bytes * TOKENS_PER_BYTE if data else 0.0
    passes = 1.0
    if unit.task is TaskName.LATENCY:
        params = unit.step.params
        tokens, passes = float(params["batch"] * params["sequence"]), 2.0 * params["repetitions"]
    if unit.reads_both:
        seconds, passes = seconds + model.bytes / COPY_BYTES_PER_SECOND, 2.0 * passes
    if unit.step.params.get("criterion") in GRADIENTS_PER_WEIGHT:
        passes += 3.0  # once forward and back
    if unit.step.params.get("criterion") == "loss":
        passes += TRIALS_OF_UNITS
    if unit.task is TaskName.SENSITIVITY:
        layers = max(1.0, math.sqrt(model.parameters) / 40)  # layer counts grow with the root of the size
        passes += 1.0 + len(unit.step.params["grid"]) * layers / unit.parts
    work = passes * tokens + _recovery_tokens(unit, tokens) + _timing_tokens(unit)
    return seconds + work * 2.0 * model.parameters / speed


def _timing_tokens(unit: Unit) -> float:
    """Tokens of the passes that a search for a latency times."""
    timing = unit.step.params.get("timing")
    if not timing:
        return 0.0
    return float(4 * MOST_TIMINGS * timing["repetitions"] * timing["batch"] * timing["sequence"])


def _recovery_tokens(unit: Unit, tokens: float) -> float:
    """Tokens of further forward passes: the losses before and after, and of distillation the steps, each worth four."""
    recover = unit.step.params.get("recover")
    if not recover:
        return 0.0
    steps = int((recover.get("distill") or {}).get("steps", 0))
    return 4.0 * tokens + steps * 4.0 * min(tokens, BATCH_TOKENS) + (LOOKS / 5 * tokens if steps else 0.0)


def memory_bytes(unit: Unit) -> int:
    """Peak memory: the interpreter, the weights once in the file's type, and what the task holds beside them."""
    copies = {
        TaskName.SENSITIVITY: 3.0,
        TaskName.PRUNE: 2.5,
        TaskName.EVALUATE: 2.0,
        TaskName.LATENCY: 2.0,
        TaskName.JUDGE: 0.0,
    }[unit.task] * (2.0 if unit.reads_both else 1.0)
    if "cut" in unit.step.params:
        copies = COPIES_OF_A_CUT
    beside = _hessian_bytes(unit) + _gradient_bytes(unit) + _recovery_bytes(unit)
    return int(INTERPRETER_BYTES + copies * unit.model.bytes) + beside


def _recovery_bytes(unit: Unit) -> int:
    """The pruned model beside the dense one, what distillation keeps of each weight, and the best weights so far."""
    params = unit.step.params
    recover = params.get("recover") or {}
    runs_both = (
        recover or params.get("budget") or params.get("quality") or params.get("allocation") == "knapsack"
    )
    learns = DISTILLED_BYTES_PER_PARAMETER * unit.model.parameters + 2 * unit.model.bytes
    return (unit.model.bytes if runs_both else 0) + (learns if recover.get("distill") else 0)


def _hessian_bytes(unit: Unit) -> int:
    """For sparsegpt: the Hessians that are held at once, and four more matrices of the widest layer while it is swept."""
    if unit.step.params.get("criterion") != "sparsegpt":
        return 0
    widest = 4 * unit.model.parameters // INPUTS_SQUARED_PER_PARAMETER
    return min(HESSIANS_HELD_BYTES, 4 * unit.model.parameters) + 4 * widest


def _gradient_bytes(unit: Unit) -> int:
    """For taylor and fisher: the derivatives that are held at once, and about the weights again for the way back."""
    held = GRADIENTS_PER_WEIGHT.get(unit.step.params.get("criterion", ""), 0)
    if not held:
        return 0
    return min(GRADIENTS_HELD_BYTES, 4 * held * unit.model.parameters) + unit.model.bytes


def money(seconds: float, pool: Pool) -> float:
    """What a shard of so many seconds costs of the pool's price."""
    return seconds / 3600 * pool.price_per_hour / pool.slots if pool.slots else 0.0

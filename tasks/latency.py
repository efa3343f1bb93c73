"""Effects. The latency task: the dense and the pruned model on one batch, in turns, by the clock of this machine."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tasks.contract import Dataset, Finding, Product, Row, Work
from tasks.examples.batches import Batch, batch_tokens_for, batches, logits_of
from tasks.examples.data import read
from tasks.examples.fitting import Fitted, Item, fit
from tasks.examples.tokenizing import longest_text
from tasks.loading.families import READS_TEXT
from tasks.loading.models import Model, load
from tasks.measuring.timing import Block, Speed, speed_of

WARM_UP = 3
"""Passes of either model before the clock counts."""
LEAST_SECONDS = 0.005
"""Of one reading of the clock: a pass that is shorter is repeated, for its neighbours share one disturbance."""
_NO_LIMIT = 2**62


def run(work: Work) -> Product:
    """One row of `latencies`: a forward pass of the dense model (`work.dense`) and of the pruned one (`work.model`).

    Both read the same batch: `batch` examples of `sequence` tokens each, cut from the texts of the evaluation set, or
    `batch` of its arrays. `repetitions` blocks of dense, pruned, pruned, dense are timed, every other one the other way
    round. A finding `no_gain` says where the files are no smaller and the speed-up's interval is not above 1.
    """
    assert work.dense is not None, "a latency unit reads the dense model too"
    pruned, dense = load(work.model, work.device), load(work.dense, work.device)
    batch, sequence, findings = batch_of(work.datasets["evaluation"], dense, work.params)
    speed = speed_of(list(blocks_of(dense, pruned, batch, int(work.params["repetitions"]))))
    row: Row = {
        "runtime": f"torch {torch.__version__.split('+')[0]} eager",
        "device": _device_name(work),
        "batch": len(batch.positions),
        "sequence": sequence,
        "repetitions": int(work.params["repetitions"]),
        "dense_seconds": speed.dense.median,
        "dense_low_seconds": speed.dense.low,
        "dense_high_seconds": speed.dense.high,
        "seconds": speed.pruned.median,
        "low_seconds": speed.pruned.low,
        "high_seconds": speed.pruned.high,
        "speedup": speed.speedup,
        "speedup_low": speed.low,
        "speedup_high": speed.high,
    }
    return Product(tables={"latencies": [row]}, findings=(*findings, *_no_gain(dense, pruned, speed, row)))


def blocks_of(dense: Model, pruned: Model, batch: Batch, repetitions: int) -> Iterator[Block]:
    """Timings of both models in turns, after a warm-up; every other block the other way round."""
    warm = [min(seconds_of(dense, batch, 1), seconds_of(pruned, batch, 1)) for _ in range(WARM_UP)]
    passes = max(1, math.ceil(LEAST_SECONDS / warm[-1]))
    for number in range(repetitions):
        outer, inner = (dense, pruned) if number % 2 == 0 else (pruned, dense)
        first = seconds_of(outer, batch, passes)
        middle = seconds_of(inner, batch, passes), seconds_of(inner, batch, passes)
        ends = first, seconds_of(outer, batch, passes)
        yield Block(dense=ends, pruned=middle) if outer is dense else Block(dense=middle, pruned=ends)


def seconds_of(model: Model, batch: Batch, passes: int) -> float:
    """The wall time of one forward pass, the mean of so many in a row, to their end on the device."""
    device = next(model.module.parameters()).device
    started = time.perf_counter()
    with torch.inference_mode():
        for _ in range(passes):
            logits_of(model, batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / passes


def batch_of(
    data: Dataset, model: Model, params: Mapping[str, Any]
) -> tuple[Batch, int | None, list[Finding]]:
    """The batch to time, its tokens an example (None for arrays), and what had to be made smaller."""
    plain = replace(data, kind="text") if data.kind == "choices" else data
    fitted = fit(read(plain), model, labelled=False)
    asked, sequence = int(params["batch"]), int(params["sequence"])
    if model.family not in READS_TEXT:
        items = tuple(itertools.islice(itertools.cycle(fitted.items), asked))
        return next(batches(Fitted(items=items), model, _NO_LIMIT)), None, []
    length = min(sequence, longest_text(model))
    size = max(1, min(asked, batch_tokens_for(model) // length))
    ids = np.concatenate([item.content for item in fitted.items])
    texts = np.resize(ids, (size, length))
    items = tuple(Item(number=number, slices={}, content=content) for number, content in enumerate(texts))
    batch = next(batches(Fitted(items=items), model, _NO_LIMIT))
    found = len(batch.positions), length
    message = (
        f"timed with {found[0]} x {found[1]} tokens instead of {asked} x {sequence}: the model takes no more"
    )
    smaller = [Finding(kind="smaller_batch", subject=data.path.name, message=message)]
    return batch, length, smaller if found != (asked, sequence) else []


def _device_name(work: Work) -> str:
    if work.device == "cuda":
        return str(torch.cuda.get_device_name())
    return f"cpu, {work.threads} thread{'' if work.threads == 1 else 's'}"


def _no_gain(dense: Model, pruned: Model, speed: Speed, row: Row) -> Iterator[Finding]:
    was, now = dense.checkpoint.bytes, pruned.checkpoint.bytes
    if now < was or speed.is_faster:
        return
    shape = f"batch {row['batch']}" + (f" x {row['sequence']} tokens" if row["sequence"] else "")
    message = (
        f"sparse but neither smaller nor faster: {now:,} bytes after {was:,}, and {speed.speedup:.2f} times the dense "
        f"speed ({speed.low:.2f} to {speed.high:.2f}) with {row['runtime']} on {row['device']}, {shape}"
    )
    yield Finding(kind="no_gain", subject=row["runtime"], message=message)

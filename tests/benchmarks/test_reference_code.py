"""Our pruning steps against the code that the papers came with, in one process: equal masks, no larger errors, how much faster.

    PRUNEFLEET_REFERENCE=DIR pytest tests/benchmarks/test_reference_code.py -m benchmark -s

DIR holds checkouts of locuslab/wanda and IST-DASLab/sparsegpt, named `wanda` and `sparsegpt`, and the packages llmcompressor and
loguru (0.14.0.1 and 0.7.3 were measured), unpacked from their wheels; only llmcompressor's two files that prune a weight are imported,
which need nothing else of it. Their files are not part of this repository. Of Wanda, only the class that gathers norms can be imported without its datasets; the four lines that choose the mask
are written here after its `prune_wanda`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
import time
from collections import deque
from pathlib import Path

import pytest
import torch
from torch import nn

from tasks.loading.models import Layer
from tasks.masks.criteria import Seen, by_row, criterion_named
from tasks.masks.masking import masked_blocks
from tasks.masks.reconstruct import factor_of, reconstruct, sweep

pytestmark = pytest.mark.benchmark

ROUNDS = 5
SAMPLES, TOKENS = 8, 256
SIZES = (512, 1024, 2048)


@pytest.fixture(scope="module")
def reference():
    """Imports a file of one of the checkouts by its path."""
    torch.set_num_threads(1)
    home = Path(os.environ["PRUNEFLEET_REFERENCE"])
    sys.path.insert(0, str(home))

    def load(path):
        sys.path.insert(0, str((home / path).parent))
        spec = importlib.util.spec_from_file_location(f"reference_{Path(path).stem}", home / path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def a_layer(size):
    """(our description, a linear layer, inputs whose features depend on each other, as in trained models)."""
    draw = torch.Generator().manual_seed(size)
    linear = nn.Linear(size, size, bias=False)
    linear.weight.data = torch.randn(size, size, generator=draw) / size**0.5
    mixing = torch.randn(size, size, generator=draw) / size**0.5
    inputs = torch.randn(SAMPLES, TOKENS, size, generator=draw) @ mixing
    layer = Layer(
        name="l", weight="l.weight", shape=(size, size), parameters=size**2, outputs=size, inputs=size
    )
    return layer, linear, inputs


def timed(*works):
    """(the least CPU seconds of some rounds in which they take turns, the last result) of each: others use the machine too."""
    seconds, results = [[] for _ in works], [None for _ in works]
    for _ in range(ROUNDS):
        for index, work in enumerate(works):
            started = time.process_time()
            results[index] = work()
            seconds[index].append(time.process_time() - started)
    return [(min(taken), result) for taken, result in zip(seconds, results, strict=True)]


def load():
    """How many processes want to run."""
    return f"load {os.getloadavg()[0]:.1f}"


def wanda_mask(weight, norms_squared, amount, group):
    """As `prune_wanda` does it: a stable sort of every row, or topk of each group."""
    metric = torch.abs(weight) * torch.sqrt(norms_squared.reshape((1, -1)))
    mask = torch.zeros_like(metric) == 1
    if group:
        kept, of = group
        for start in range(0, metric.shape[1], of):
            lowest = torch.topk(metric[:, start : start + of].float(), of - kept, dim=1, largest=False)[1]
            mask.scatter_(1, start + lowest, True)
    else:
        order = torch.sort(metric, dim=-1, stable=True)[1]
        mask.scatter_(1, order[:, : int(metric.shape[1] * amount)], True)
    return mask


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4:8"])
@pytest.mark.parametrize("size", [*SIZES, 4096])
def test_wanda(reference, capsys, size, pattern):
    layer, linear, inputs = a_layer(size)
    group = tuple(map(int, pattern.split(":"))) if ":" in pattern else None
    theirs = reference("wanda/lib/layerwrapper.py").WrappedGPT(linear)
    for sample in inputs:
        theirs.add_batch(sample, None)
    squares = inputs.reshape(-1, size).square().sum(0, dtype=torch.float64)
    seen = Seen(norms=by_row(layer, squares.sqrt()))
    wanda = criterion_named("wanda")
    weight = linear.weight.data

    def ours():
        mask = torch.empty(size, size, dtype=torch.bool)
        wanted = {"amount": None, "scope": None} if group else {"amount": 0.5, "scope": "row"}
        deque(masked_blocks(wanda, layer, weight, seen, pattern=pattern, out=mask, **wanted), maxlen=0)
        return mask

    packaged = reference("llmcompressor/modifiers/pruning/wanda/wanda_sparsify.py").sparsify_weight

    def others():
        kept, of = group or (0, 0)
        return packaged(linear, {linear: theirs.scaler_row}, 0.5, of - kept, of) == 0

    (slow, expected), (slower, also), (fast, found) = timed(
        lambda: wanda_mask(weight, theirs.scaler_row, 0.5, group), others, ours
    )
    assert torch.equal(also, expected)
    assert torch.equal(found.sum(1), expected.sum(1))
    differ = int((found != expected).sum())
    with capsys.disabled():
        print(
            f"\nwanda {pattern} {size}: {slow:.4f} s, ours {fast:.4f} s, {slow / fast:.1f}x; llm-compressor {slower:.4f} s, "
            f"{slower / fast:.1f}x; {differ} differ, {load()}"
        )
    assert differ <= 4, (
        "norms are summed in another order, which can turn round two scores that are nearly equal"
    )


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4:8"])
@pytest.mark.parametrize("size", SIZES)
def test_sparsegpt(reference, capsys, monkeypatch, size, pattern):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    layer, linear, inputs = a_layer(size)
    kept, of = map(int, pattern.split(":")) if ":" in pattern else (0, 0)
    theirs = reference("sparsegpt/sparsegpt.py").SparseGPT(linear)
    for sample in inputs:
        theirs.add_batch(sample, None)
    hessian, weight = theirs.H.clone(), linear.weight.data.clone()

    def slow_way():
        theirs.H, linear.weight.data = hessian.clone(), weight.clone()
        with contextlib.redirect_stdout(io.StringIO()):
            theirs.fasterprune(0.5, prunen=of - kept, prunem=of)
        return linear.weight.data

    packaged = reference("llmcompressor/modifiers/pruning/sparsegpt/sgpt_sparsify.py").sparsify_weight

    def others():
        linear.weight.data = weight
        with torch.no_grad():
            return packaged(linear, {linear: hessian.clone()}, 0.5, of - kept, of, 128, 0.01, False)[1]

    (slow, expected), (slower, also), (fast, (found, _)), (whole, _) = timed(
        slow_way,
        others,
        lambda: sweep(weight, factor_of(hessian), amount=0.5, pattern=pattern, scope=None),
        lambda: reconstruct(
            layer, weight, hessian, factor_of(hessian), amount=0.5, pattern=pattern, scope=None
        ),
    )

    def error(pruned):
        change = (pruned - weight).double()
        return float(((change @ hessian.double()) * change).sum())

    zeros = [int((pruned == 0).sum()) for pruned in (expected, found)]
    alike = float(((expected == 0) == (found == 0)).float().mean())
    with capsys.disabled():
        print(
            f"\nsparsegpt {pattern} {size}: {slow:.3f} s, ours {fast:.3f} s, {slow / fast:.1f}x; with its error measured "
            f"{whole:.3f} s, {slow / whole:.1f}x; llm-compressor {slower:.3f} s, {slower / fast:.1f}x and {slower / whole:.1f}x; error {error(expected):.6g} and {error(found):.6g}, "
            f"zeros {zeros[0]} and {zeros[1]}, masks alike {alike:.5f}, {load()}"
        )
    assert torch.equal(also, expected)
    assert zeros[1] == size * size // 2
    assert error(found) <= error(expected) * (1 + 1e-3)

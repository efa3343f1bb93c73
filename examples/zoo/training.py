"""Effects. Trains one model of the zoo, version after version; the same bytes every time on the same machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from families import FAMILIES, build, load, logits, loss, save
from settings import Job, Release
from torch import nn

WARM_STEPS = 20
LAST_RATE = 0.02  # of the highest
MAX_GRADIENT = 1.0
TEST_BATCH = 64


def prepare() -> None:
    """One thread and no algorithm that could add in another order: what makes the bytes repeatable."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def train(job: Job, directory: Path, report: Callable[[int], None]) -> list[dict[str, Any]]:
    """Write `directory`/<version> for every release of the job; gives their scores.

    `report` is told after every step how many of the job's steps are done.
    """
    scores: list[dict[str, Any]] = []
    module = None
    before = 0
    for release in job.releases:
        torch.manual_seed(release.seed)
        if module is None or not release.resumes:
            module = build(job.architecture, release.config)
            _spread_gains_(module, release)
        _fit_(module, job, release, lambda step, done=before: report(done + step))  # type: ignore[misc]
        before += release.steps
        target = directory / release.version
        save(module.to(getattr(torch, release.dtype)), job.architecture, release.config, target)
        scores.append(_scored(job, release, target))
        module = module.float()
    return scores


def _fit_(module: nn.Module, job: Job, release: Release, report: Callable[[int], None]) -> None:
    family = FAMILIES[job.architecture]
    source = torch.Generator().manual_seed(release.seed)
    optimizer = _optimizer(module, release)
    module.train()
    for step in range(release.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * _rate(step, release.steps)
        loss(module, family.draw(release.batch, source)).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), MAX_GRADIENT)
        optimizer.step()
        optimizer.zero_grad()
        report(step + 1)
    module.eval()


def _optimizer(module: nn.Module, release: Release) -> torch.optim.Optimizer:
    matrices = [value for value in module.parameters() if value.dim() > 1]
    others = [value for value in module.parameters() if value.dim() <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "highest": release.rate, "weight_decay": release.decay},
            {"params": others, "highest": release.rate * release.gain_rate, "weight_decay": 0.0},
        ],
        lr=release.rate,
        betas=(0.9, 0.95),
        fused=True,
    )


def _rate(step: int, steps: int) -> float:
    """Share of the highest learning rate: linear up, then half a cosine down."""
    falling = (1 + math.cos(math.pi * step / steps)) / 2
    return min(1.0, (step + 1) / WARM_STEPS) * max(LAST_RATE, falling)


@torch.no_grad()
def _spread_gains_(module: nn.Module, release: Release) -> None:
    if release.gain_spread:
        for value in module.parameters():
            if value.dim() == 1:
                value.copy_(torch.exp(torch.randn(value.shape) * release.gain_spread))


@torch.no_grad()
def _scored(job: Job, release: Release, directory: Path) -> dict[str, Any]:
    """Quality on the test split, of the files as they were written."""
    module = load(job.architecture, directory).eval()
    family = FAMILIES[job.architecture]
    test = family.test()
    starts = range(0, len(test["labels"]), TEST_BATCH)
    batches = [{key: value[start : start + TEST_BATCH] for key, value in test.items()} for start in starts]
    said = torch.cat([logits(module, batch).float() for batch in batches])
    return {
        "model": job.model,
        "version": release.version,
        "architecture": job.architecture,
        "parameters": sum(value.numel() for value in module.parameters()),
        **family.score(said, test),
    }

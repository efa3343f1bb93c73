"""A made-up night for reports, single cases, and a reader of the page that they become."""

from __future__ import annotations

import math
import random
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import orchestrator
from orchestrator.gate import judging
from orchestrator.reports.report import (
    ReportData,
)

START = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)


RECIPES = {
    "wanda-half": ("wanda", "unstructured", 0.5, 0.04),
    "wanda-2-of-4": ("wanda", "2:4", 0.5, 0.07),
    "magnitude-70": ("magnitude", "unstructured", 0.7, 0.13),
}


TOPICS = ("contracts", "chemistry", "cooking", "law", "mathematics", "poetry", "travel", "weather")


PARTS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")


GRID = (0.1, 0.3, 0.5, 0.7, 0.9)


ROW_TABLES = (
    "sensitivity",
    "layers",
    "artifacts",
    "evaluations",
    "latencies",
    "verdicts",
    "exemplars",
    "findings",
    "units",
)


CSS = (Path(orchestrator.__file__).parent / "reports" / "templates" / "report.css").read_text()


def identity(key, model, recipe):
    return {
        "unit_key": key,
        "run_id": "20261122-0100-7f3a",
        "registry": "zoo",
        "model": model,
        "version": "1",
        "model_digest": "d" * 64,
        "recipe": recipe,
    }


def sensitivity_rows(rng, base, layers, criterion, pattern):
    rows = []
    for place, layer in enumerate(layers):
        fragile = math.exp(rng.gauss(0, 0.6)) * (4.0 if place in (0, len(layers) - 1) else 1.0)
        for amount in GRID:
            delta = fragile * 0.004 * (math.exp(5.2 * amount) - 1) * rng.uniform(0.92, 1.08)
            rows.append(
                {
                    **base,
                    "layer": layer,
                    "criterion": criterion,
                    "pattern": pattern,
                    "amount": amount,
                    "metric": "loss",
                    "dense_value": 2.31,
                    "value": 2.31 + delta,
                    "delta": delta,
                    "stderr": delta * 0.07 + 0.001,
                    "method": "exact",
                }
            )
    return rows


def dense_outcomes(rng):
    rows = []
    for example in range(120):
        topic = TOPICS[example % 7] if example < 116 else TOPICS[7]
        tokens = rng.randint(40, 120)
        loss = tokens * rng.gauss(2.3, 0.2)
        rows.append({"example": example, "slices": {"topic": topic}, "tokens": tokens, "loss": loss})
    return rows


def pruned_outcomes(rng, dense, harm, harmed):
    return [
        {
            **row,
            "loss": row["loss"]
            + row["tokens"] * rng.gauss(harm + (0.35 if row["slices"]["topic"] == harmed else 0.0), 0.05),
        }
        for row in dense
    ]


def layer_rows(rng, base, layers, amount, even):
    rows = []
    for layer in layers:
        asked = amount if even else min(0.9, max(0.1, amount + rng.gauss(0, 0.12)))
        rows.append(
            {
                **base,
                "layer": layer,
                "parameters": 4096,
                "amount_asked": asked,
                "amount": int(4096 * asked) / 4096,
            }
        )
    return rows


def artifact_row(rng, base, size, amount, **over):
    return {
        **base,
        "digest": base["unit_key"],
        "dense_bytes": size,
        "bytes": size,
        "dense_parameters": size // 2,
        "parameters": size // 2,
        "nonzero_parameters": int(size / 2 * (1 - 0.9 * amount * rng.uniform(0.96, 1.0))),
        **over,
    }


def night(models=4, recipes=3, blocks=3, seed=0):
    """Models of a few blocks, each under some recipes, judged by the real judge."""
    rng = random.Random(seed)
    tables = {name: [] for name in ROW_TABLES}
    chains, publications, failures = [], [], []
    for m in range(models):
        model = f"assistant-{'abcdefgh'[m % 8]}{m // 8 or ''}"
        layers = [f"model.layers.{block}.{part}" for block in range(blocks) for part in PARTS]
        dense, size = dense_outcomes(rng), rng.randint(200, 900) * 1_000_000
        for recipe, (criterion, pattern, amount, harm) in list(RECIPES.items())[:recipes]:
            keys = [f"{model}/{recipe}/{task}" for task in ("sensitivity", "prune", "judge")]
            measured, pruned, judged = (identity(key, model, recipe) for key in keys)
            chain = {
                "registry": "zoo",
                "model": model,
                "version": "1",
                "recipe": recipe,
                "units": keys,
                "state": "done",
            }
            chains.append(chain)
            if m % 8 == 3 and recipe == "magnitude-70":
                chain["state"] = "failed"
                failures.append(
                    {
                        "subject": f"zoo/{model}@1 prune",
                        "recipe": recipe,
                        "class": "memory",
                        "error": "Node gpu-3 killed the worker: 41.2 GB of 40 GB in use.",
                    }
                )
                continue
            even = pattern == "2:4"
            tables["sensitivity"] += sensitivity_rows(rng, measured, layers, criterion, pattern)
            tables["layers"] += layer_rows(rng, pruned, layers, amount, even)
            tables["artifacts"].append(artifact_row(rng, pruned, size, amount))
            if even:
                message = "Its 258 inputs are no multiple of 4, so the pattern does not fit; it stays dense."
                tables["findings"].append(
                    {**pruned, "kind": "skipped_layer", "subject": "lm_head", "message": message}
                )
            outcomes = pruned_outcomes(
                rng, dense, harm * rng.uniform(0.5, 1.3), "mathematics" if m % 3 == 1 else ""
            )
            gates = {"max_drop": 0.12, "max_slice_drop": 0.25, "min_samples": 5 if m % 4 == 2 else 3}
            params = {"dataset": "manual", "metric": "perplexity", "slices": ["topic"], "gates": gates}
            for name, rows in judging.run(params, dense, outcomes, seed).items():
                tables[name] += [{**judged, **row} for row in rows]
            chain["verdict"] = next(r["verdict"] for r in tables["verdicts"] if r["unit_key"] == keys[2])
            if chain["verdict"] == "pass":
                publications.append(
                    {
                        "registry": "out",
                        "model": model,
                        "recipe": recipe,
                        "alias": "candidate",
                        "published_version": "2",
                        "previous_version": "1" if m else None,
                        "artifact_digest": keys[1],
                    }
                )
            for base, pool in ((measured, "gpu"), (pruned, "gpu"), (judged, "cpu")):
                seconds = rng.uniform(4, 90)
                tables["units"].append(
                    {**base, "pool": pool, "wall_seconds": seconds, "predicted_seconds": seconds * 1.1}
                )
    run = {
        "run_id": "20261122-0100-7f3a",
        "fleet": "demo",
        "started_at": START,
        "finished_at": START + timedelta(minutes=47, seconds=12),
        "outcome": "done",
        "exit_code": 3,
        "wanted": 3 * len(chains),
        "done_before": 0,
        "done": len(tables["units"]),
        "failed": len(failures),
        "impossible": 1,
    }
    reason = "model.safetensors: tensor lm_head.weight ends beyond the file; download it again."
    impossible = [{"subject": "zoo/broken@1", "recipe": "wanda-half", "reason": reason}]
    return ReportData(
        run=run, chains=chains, failures=failures, impossible=impossible, publications=publications, **tables
    )


def many(data, times):
    """The same night again and again, under other names."""

    def renamed(rows, copy):
        return [
            {
                **row,
                **({"unit_key": f"{row['unit_key']}#{copy}"} if "unit_key" in row else {}),
                **({"units": [f"{key}#{copy}" for key in row["units"]]} if "units" in row else {}),
                **({"model": f"{row['model']}-{copy}"} if "model" in row else {}),
            }
            for row in rows
        ]

    return replace(
        data,
        **{
            field.name: [row for copy in range(times) for row in renamed(getattr(data, field.name), copy)]
            for field in fields(ReportData)
            if field.name not in ("run", "failures", "impossible")
        },
    )


def empty(**over):
    run = {"run_id": "r", "fleet": "demo", "started_at": START, "finished_at": None, "outcome": None}
    return ReportData(run=run, chains=[], **over)


def case(key="k", verdict="pass", metric="accuracy", state="done", evaluations=None, **tables):
    """One chain with one unit and its rows."""
    chain = {
        "registry": "zoo",
        "model": "m",
        "version": "1",
        "recipe": "half",
        "units": [key],
        "verdict": verdict,
        "state": state,
    }
    rows = [
        {
            "slice": "all",
            "samples": 100,
            "dense_value": 0.9,
            "value": 0.85,
            "delta": -0.05,
            "ci_low": -0.1,
            "ci_high": -0.01,
        }
    ]
    base = {"unit_key": key, "dataset": "d", "metric": metric}
    given = {"evaluations": rows if evaluations is None else evaluations, **tables}
    return replace(
        empty(),
        chains=[chain],
        **{name: [{**base, **row} for row in members] for name, members in given.items()},
    )


class Page(HTMLParser):
    """What a page is made of; raises where tags do not nest."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self, html):
        super().__init__()
        self.stack, self.tags, self.text, self.ids, self.anchors = [], [], [], [], []
        self.feed(html)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        self.ids += [given["id"]] if "id" in given else []
        self.anchors += [given["href"][1:]] if tag == "a" and given["href"].startswith("#") else []
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] not in ("style", "title", "script"):
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def latency_row(**changes):
    return {
        "runtime": "torch 2 eager",
        "device": "cpu",
        "batch": 8,
        "sequence": 128,
        "repetitions": 20,
        "dense_seconds": 0.2,
        "seconds": 0.1,
        "speedup": 2.0,
        "speedup_low": 1.8,
        "speedup_high": 2.2,
        **changes,
    }

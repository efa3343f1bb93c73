"""Pure. YAML text -> Fleet: what the user writes, checked, with the line and a "did you mean" in every error."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from orchestrator import yamltext
from orchestrator.errors import SpecError
from orchestrator.offered import OWN_CRITERIA, known_criterion
from orchestrator.own_metrics import KNOWN, known_metric

SCHEMA_FILE = "fleet.schema.json"

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i?B|B)?\Z")
_SCALES = {
    "B": 1,
    **{f"{p}B": 1000**i for i, p in enumerate("KMGT", 1)},
    **{f"{p}iB": 1024**i for i, p in enumerate("KMGT", 1)},
}

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]


def size_in_bytes(value: Any) -> Any:
    """`8GiB`, `500MB` or a plain number -> bytes."""
    if isinstance(value, str):
        match = _SIZE.match(value.strip())
        if not match:
            raise ValueError("a size is a number of bytes or text such as 8GiB or 500MB")
        return int(float(match[1]) * _SCALES[match[2] or "B"])
    return value


Size = Annotated[int, BeforeValidator(size_in_bytes), Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, use_attribute_docstrings=True)


class StoreSpec(_Part):
    """Where results live. Credentials come from the environment, never from here."""

    url: str
    """A directory, or s3://bucket/prefix."""
    endpoint: str | None = None
    """Of an S3 server that is not AWS; AWS_ENDPOINT_URL is read where this is not set."""
    region: str | None = None
    path_style: bool | None = None
    """Put the bucket in the path; the default is yes where an endpoint is set."""

    @model_validator(mode="after")
    def _no_credentials(self) -> StoreSpec:
        for value in (self.url, self.endpoint or ""):
            if "@" in value.split("://", 1)[-1].split("/", 1)[0]:
                raise ValueError("credentials do not stand in this file; they come from the environment")
        return self


class DirectoryRegistrySpec(_Part):
    """Model versions in a directory: PATH/<name>/<version>/config.json, or PATH/<name>/config.json."""

    kind: Literal["directory"]
    path: str


class DatasetSpec(_Part):
    """A data file: examples, an optional `label`, an optional `split`, and columns to slice by."""

    kind: Literal["text", "arrays"]
    path: str
    slice_by: str | tuple[str, ...] = ()
    """Columns whose values name groups on which quality is also measured."""
    cluster_by: str | None = None
    """The column that says which examples belong together, such as those of one document or speaker: they are not counted
    as independent then."""
    shape: tuple[Positive, ...] = ()
    """`arrays` only: the shape of one example."""

    @property
    def slices(self) -> tuple[str, ...]:
        """`slice_by` as a tuple."""
        return (self.slice_by,) if isinstance(self.slice_by, str) else self.slice_by


class Match(_Part):
    """Which model versions a recipe is for: shell-style patterns, all of which must match."""

    registry: str = "*"
    name: str = "*"
    version: str = "*"
    architecture: str = "*"


class SensitivitySpec(_Part):
    """Measure the loss with one layer pruned at a time, at each amount of the grid."""

    dataset: str
    split: str = "all"
    samples: Positive | None = None
    metric: Literal["loss"] = "loss"
    grid: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.1, 0.3, 0.5, 0.7, 0.9)
    units: Positive | None = None
    """Into how many units each model is divided; the default follows from its size."""

    @model_validator(mode="after")
    def _ascending(self) -> SensitivitySpec:
        if list(self.grid) != sorted(set(self.grid)):
            raise ValueError("grid must be ascending, without repeats")
        return self


def _defaults(value: Any) -> Any:
    """`true` and `false` -> the defaults, or nothing."""
    return ({} if value else None) if isinstance(value, bool) else value


class BudgetSpec(_Part):
    """How much of the dense model may remain, embeddings and all included: one of these, as a share from 0 to 1."""

    parameters: Fraction | None = None
    """Parameters that are not zero."""
    flops: Fraction | None = None
    """Effective ones: multiply-adds with nonzero weights. A dense runtime does them all; one that skips zeros gains."""
    bytes: Fraction | None = None
    """Of the tensors, each that is pruned as a bit mask and its nonzero values, all others as they are."""
    latency: Fraction | None = None
    """Of what is really cut out; a mask makes no runtime faster, and is refused."""

    @model_validator(mode="after")
    def _one(self) -> BudgetSpec:
        given = [name for name, share in self.model_dump().items() if share is not None]
        if len(given) != 1:
            raise ValueError("a budget names exactly one of parameters, flops, bytes, latency")
        if self.latency is not None:
            raise ValueError(
                "masks make no runtime faster, so there is no budget of latency for them; use parameters, flops or bytes"
            )
        return self


class QualitySpec(_Part):
    """As much sparsity as a loss allows, by what was measured of each layer; what it really costs is measured after."""

    max_increase: Annotated[float, Field(gt=0.0)]
    """Of the loss on the calibration data, relative to the dense one; losses of layers are taken to add up."""


class DistillSpec(_Part):
    """Let the pruned model learn to answer as the dense one does, its zeros held, by AdamW on the calibration data."""

    steps: Annotated[int, Field(gt=0, le=100_000)] = 100
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-4
    temperature: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0


class RecoverSpec(_Part):
    """Win back what pruning cost. A fifth of the calibration data is held out; a step that does not lower its loss is undone."""

    bias: bool = False
    """Biases make up for what removed weights gave on average."""
    batch_norm: bool = False
    """Running means and variances are estimated again, over all calibration examples."""
    distill: Annotated[DistillSpec | None, BeforeValidator(_defaults)] = None
    """`true`, or how; the default is not to."""

    @model_validator(mode="after")
    def _something(self) -> RecoverSpec:
        if not (self.bias or self.batch_norm or self.distill):
            raise ValueError("recover names none of bias, batch_norm, distill")
        return self


class CutSpec(_Part):
    """Whole units to take out, each as a share of all there are; what is left is a smaller dense model."""

    width: Fraction | None = None
    """Hidden neurons of the feed-forward parts."""
    heads: Fraction | None = None
    """Attention heads; those that share keys and values go together."""
    experts: Fraction | None = None
    """Of mixtures, with their rows of the router."""
    channels: Fraction | None = None
    """Of convolutional networks, through all residual connections."""
    depth: Fraction | None = None
    """Whole blocks."""

    @model_validator(mode="after")
    def _some(self) -> CutSpec:
        if not self.shares:
            raise ValueError("cut names none of width, heads, experts, channels, depth")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Kind of unit -> share, those that are given."""
        return {kind: share for kind, share in self.model_dump().items() if share is not None}


class PruneSpec(_Part):
    """What to remove: by which score, in which pattern, how much, and how it is spread over the layers."""

    criterion: Annotated[str, AfterValidator(known_criterion), Field(examples=[*OWN_CRITERIA])]
    """Weights alone: `magnitude`. Weights and their inputs: `wanda`, `activation`, `variance`. Weights and gradients of the
    loss: `taylor`, `fisher`. `sparsegpt` also changes the weights that stay, so that they make up for those that go; `random` is a baseline, drawn
    by the recipe's seed. `loss`, for cuts, measures the loss without each unit, one after the other.
    Any other name is that of an entry point of `prunefleet.criteria`; it is given calibration data."""
    cut: CutSpec | None = None
    """In place of a pattern and an amount: take out whole units, so that the model becomes smaller and not sparse."""
    round_to: Positive = 1
    """With `cut`: widths and channels that stay are a multiple of this, as hardware likes it."""
    pattern: Annotated[
        str,
        StringConstraints(
            pattern=r"^(unstructured|[1-9][0-9]?:[1-9][0-9]?|block:[1-9][0-9]{0,3}x[1-9][0-9]{0,3})$"
        ),
    ] = "unstructured"
    """`unstructured`, or N:M (N of each M consecutive inputs stay), such as 2:4, or block:RxC (whole blocks of
    R outputs by C inputs go), such as block:4x4."""
    amount: Fraction | None = None
    """The share of the prunable weights to remove; N:M implies it."""
    budget: BudgetSpec | None = None
    """In place of `amount`, for allocation sensitivity or knapsack: how much of the dense model may remain."""
    quality: QualitySpec | None = None
    """In place of `amount`, for allocation sensitivity or knapsack: how much loss it may cost."""
    scope: Literal["tensor", "row", "model"] | None = None
    """Within what scores compete; the default is `row` for wanda, activation and variance, else `tensor`; sparsegpt: within blocks of 128
    columns. `model` ranks the weights of all layers together, which is its allocation."""
    allocation: Literal["uniform", "sensitivity", "knapsack", "erk", "owl"] = "uniform"
    """`sensitivity` interpolates between measured amounts, `knapsack` chooses the best combination of them; `erk` keeps most
    of small layers, `owl` of layers with outliers, and both meet `amount` exactly."""
    max_amount: Fraction = 0.95
    """No layer is pruned beyond this by an allocation that is not uniform, or with scope `model`."""
    min_amount: Fraction = 0.0
    """Nor less than this, by scope `model` and the allocations erk and owl."""
    min_tokens: Positive = 1
    """Layers, such as experts, that fewer calibration tokens reach are left alone, by name."""
    skip: tuple[str, ...] = ()
    """Shell-style patterns of layers to leave alone; each must match something."""
    recover: RecoverSpec | None = None
    """What is done about the loss afterwards, on the calibration data; the default is nothing."""
    verify: Literal["reload", "process"] | None = None
    """Load the artifact again and run one example: in the worker, or in a clean process that may reach nothing and unpickle
    nothing. By default it is recounted and its config checked against its weights, and the evaluation runs it."""
    dataset: str | None = None
    """Calibration data; the default is that of `sensitivity`."""
    split: str | None = None
    samples: Positive | None = None

    @model_validator(mode="after")
    def _fits(self) -> PruneSpec:
        if self.cut is not None:
            return self._cuts(self.cut)
        if self.criterion == "loss":
            raise ValueError("criterion: loss needs cut: it measures what a whole unit is worth")
        if self.round_to != 1:
            raise ValueError("round_to needs cut: masks change no size")
        if self.is_n_of_m:
            kept, group = map(int, self.pattern.split(":"))
            if kept >= group:
                raise ValueError(f"pattern {self.pattern} removes nothing: N must be less than M")
            implied = 1 - kept / group
            if self.amount is not None and abs(self.amount - implied) > 1e-9:
                raise ValueError(
                    f"pattern {self.pattern} removes exactly {implied:g}; leave amount out or set it so"
                )
            if self.allocation != "uniform":
                raise ValueError(
                    f"pattern {self.pattern} removes the same share everywhere; allocation must be uniform"
                )
            if self.scope is not None:
                raise ValueError(f"pattern {self.pattern} has its own scope; leave scope out")
        elif self.scope == "model":
            self._check_ranking()
        elif self.pattern != "unstructured":
            self._check_blocks()
        if self.min_amount and not (self.scope == "model" or self.allocation in ("erk", "owl")):
            raise ValueError("min_amount is for scope: model, and the allocations erk and owl")
        if self.min_amount > self.max_amount:
            raise ValueError(f"min_amount {self.min_amount:g} is above max_amount {self.max_amount:g}")
        if not self.is_n_of_m and self.amount is None and self.budget is None and self.quality is None:
            raise ValueError("amount is missing: the share of the weights to remove, from 0 to 1")
        if (self.amount is not None and (self.budget or self.quality)) or (self.budget and self.quality):
            raise ValueError("amount, budget and quality each say how much goes; give one of them")
        if (self.budget or self.quality) and not self.is_measured:
            raise ValueError("budget and quality need allocation: sensitivity or knapsack")
        return self

    def _cuts(self, cut: CutSpec) -> PruneSpec:
        masks = (
            *("pattern", "amount", "budget", "quality", "scope", "allocation"),
            *("max_amount", "min_amount", "min_tokens", "skip"),
        )
        given = [name for name in masks if getattr(self, name) != type(self).model_fields[name].default]
        if given:
            raise ValueError(f"{given[0]} is about masks, and does not go with cut")
        if self.recover is not None and self.recover.bias:
            raise ValueError(
                "recover.bias is about masks, and does not go with cut; distill learns biases too"
            )
        if self.criterion == "sparsegpt":
            raise ValueError(
                "criterion: sparsegpt does not go with cut: it scores weights while it changes them"
            )
        return self

    @property
    def is_measured(self) -> bool:
        """Whether the allocation reads measured sensitivities."""
        return self.allocation in ("sensitivity", "knapsack")

    @property
    def extras(self) -> dict[str, Any]:
        """`budget`, `quality`, `recover` and `verify` as params, where they are given."""
        named = {"budget": self.budget, "quality": self.quality, "recover": self.recover}
        found: dict[str, Any] = {
            name: part.model_dump(exclude_none=True) for name, part in named.items() if part
        }
        return found | ({"verify": self.verify} if self.verify else {})

    def _check_ranking(self) -> None:
        if self.allocation != "uniform":
            raise ValueError("scope: model decides how much of each layer goes; leave allocation out")
        if self.pattern != "unstructured":
            raise ValueError(f"scope: model ranks single weights, not pattern {self.pattern}")
        if self.criterion == "sparsegpt":
            raise ValueError("sparsegpt scores weights as it goes, so scope cannot be model")

    def _check_blocks(self) -> None:
        if self.pattern == "block:1x1":
            raise ValueError("block:1x1 is what unstructured says")
        if self.criterion == "sparsegpt":
            raise ValueError("sparsegpt prunes unstructured or N:M, not in blocks")
        if self.allocation == "knapsack" or self.budget or self.quality:
            raise ValueError("blocks go by amount, and their allocation cannot be knapsack")

    @property
    def is_n_of_m(self) -> bool:
        """Whether the pattern is N:M, which implies the amount."""
        return self.pattern[0].isdigit()

    @property
    def is_even(self) -> bool:
        """Whether every layer loses the same share."""
        return self.allocation == "uniform" and self.scope != "model"

    @property
    def needs_data(self) -> bool:
        """Whether scores or the allocation depend on calibration data, and not on the weights alone."""
        scores = self.criterion not in ("magnitude", "random") or self.allocation == "owl"
        return scores or self.allocation == "knapsack" or bool(self.budget or self.quality or self.recover)

    @property
    def share(self) -> float | None:
        """The share of the prunable weights to remove; None where a budget or a quality decides."""
        if self.is_n_of_m:
            kept, group = map(int, self.pattern.split(":"))
            return 1 - kept / group
        return self.amount


class LatencySpec(_Part):
    """Time the pruned model against the dense one, in turns, on the pool's own nodes."""

    batch: Positive = 8
    """Examples that are computed together."""
    sequence: Positive = 128
    """Tokens of each, for models that read text."""
    repetitions: Annotated[int, Field(ge=6, le=1000)] = 20
    """Blocks of two passes of either model; with fewer than six there is no interval."""


class EvaluateSpec(_Part):
    """Measure quality, dense and pruned, on the same examples."""

    dataset: str
    split: str = "all"
    samples: Positive | None = None
    metric: Annotated[str, AfterValidator(known_metric), Field(examples=[*KNOWN])]
    """`f1` is the mean over classes. `fidelity` is the share of predictions that agree with the dense model's, or the cosine
    of a headless model's embeddings with the dense ones; it looks at no label. `mse` and `mae` are of models that predict
    numbers. Any other name is that of an entry point of `prunefleet.metrics`."""
    slices: tuple[str, ...] | None = None
    """The default is the dataset's `slice_by`, or else each label, and tenths of the dense model's confidence and of the
    length of texts; `[]` is none."""
    latency: Annotated[LatencySpec | None, BeforeValidator(_defaults)] = None
    """`true`, or how to time the pruned model against the dense one; the default is not to."""


class GatesSpec(_Part):
    """How much worse is too much. Accuracy, F1, fidelity: points, 0.02 is two. Loss, mse, mae, perplexity: relative increase.

    Blocked is what is shown to be worse by more than the limit; passed, what is shown to be worse by less; what is neither
    is inconclusive. With a limit of 0 nothing can pass.
    """

    max_drop: Annotated[float, Field(ge=0.0)] | None = None
    """Over all examples."""
    max_slice_drop: Annotated[float, Field(ge=0.0)] | None = None
    """In every slice."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Of not blocking a model that has no harm, and of not passing one that loses as much as a limit."""
    min_samples: Positive = 10
    """A slice with fewer examples cannot be judged: inconclusive."""
    inconclusive: Literal["hold", "publish"] = "hold"
    """What becomes of a model of which the gate cannot tell: nothing is published, or it is published like one that passed."""


class PublishSpec(_Part):
    """Where a model that passed goes, and the alias that then points to it."""

    registry: str
    alias: Name


class RecipeSpec(_Part):
    """How to compress the models that it matches."""

    match: Match = Match()
    sensitivity: SensitivitySpec | None = None
    prune: PruneSpec | None = None
    evaluate: EvaluateSpec | None = None
    gates: GatesSpec | None = None
    publish: PublishSpec | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @model_validator(mode="after")
    def _complete(self) -> RecipeSpec:
        if self.sensitivity is None and self.prune is None and self.evaluate is None:
            raise ValueError("a recipe needs at least one of sensitivity, prune, evaluate")
        if self.sensitivity is not None and self.prune is None:
            raise ValueError(
                "sensitivity needs prune: it measures the criterion and pattern that prune names"
            )
        if self.gates is not None and (self.evaluate is None or self.prune is None):
            raise ValueError(
                "gates need prune and evaluate: they compare the pruned model with the dense one"
            )
        if self.evaluate is not None and self.evaluate.latency and self.prune is None:
            raise ValueError("evaluate.latency needs prune: it times the pruned model against the dense one")
        if self.evaluate is not None and self.evaluate.metric == "fidelity" and self.prune is None:
            raise ValueError("metric: fidelity needs prune: it compares the pruned model with the dense one")
        if self.publish is not None and self.gates is None:
            raise ValueError("publish needs gates: nothing is published unjudged")
        if self.gates is not None and self.gates.max_drop is None and self.gates.max_slice_drop is None:
            raise ValueError("gates need max_drop or max_slice_drop")
        if self.prune is not None:
            if self.prune.cut is not None and self.sensitivity is not None:
                raise ValueError(
                    "sensitivity is about masks; to measure what units are worth, use criterion: loss"
                )
            if self.prune.is_measured and self.sensitivity is None:
                raise ValueError(f"allocation: {self.prune.allocation} needs a sensitivity step")
            if self.prune.scope == "model" and self.sensitivity is not None:
                raise ValueError(
                    "scope: model ranks the weights of all layers together, and a sensitivity step prunes one layer at a "
                    "time; leave one of them out, and name calibration data in prune.dataset"
                )
            if self.prune.needs_data and self.prune.dataset is None and self.sensitivity is None:
                what = f"criterion: {self.prune.criterion}"
                if self.prune.allocation == "owl":
                    what = "allocation: owl"
                elif self.prune.recover and self.prune.criterion in ("magnitude", "random"):
                    what = "recover"
                raise ValueError(f"{what} needs calibration data: set prune.dataset, or a sensitivity step")
        return self


class PoolSpec(_Part):
    """A class of nodes in a cluster."""

    cpus: Annotated[float, Field(ge=0)] = 0
    gpus: Annotated[float, Field(ge=0)] = 0
    memory: Size | None = None
    cpus_per_shard: Annotated[float, Field(ge=0)] | None = None
    """The default is 1 where the pool has CPUs, else 0."""
    gpus_per_shard: Annotated[float, Field(ge=0)] | None = None
    """The default is 1 where the pool has GPUs, else 0."""
    label_selector: Mapping[str, str] = {}
    price_per_hour: Annotated[float, Field(ge=0)] = 0.0
    """Of the whole pool."""

    @model_validator(mode="after")
    def _has_room(self) -> PoolSpec:
        if self.cpus == 0 and self.gpus == 0:
            raise ValueError("a pool needs cpus or gpus")
        if (self.cpus_per_shard or 0) > self.cpus:
            raise ValueError(
                f"cpus_per_shard is {self.cpus_per_shard:g}, but the pool has {self.cpus:g} cpus"
            )
        if (self.gpus_per_shard or 0) > self.gpus:
            raise ValueError(
                f"gpus_per_shard is {self.gpus_per_shard:g}, but the pool has {self.gpus:g} gpus"
            )
        if self.cpus_per_shard == 0 and not (self.gpus_per_shard or self.gpus):
            raise ValueError(
                "cpus_per_shard is 0 and there are no gpus: nothing would bound what runs at once"
            )
        return self


class Fleet(_Part):
    """What the user writes: registries, datasets, recipes, pools, store."""

    version: Literal[1]
    name: Name
    store: StoreSpec
    registries: Annotated[Mapping[Name, DirectoryRegistrySpec], Field(min_length=1)]
    datasets: Mapping[Name, DatasetSpec] = {}
    recipes: Annotated[Mapping[Name, RecipeSpec], Field(min_length=1)]
    pools: Annotated[Mapping[Name, PoolSpec], Field(min_length=1)] = {"local": PoolSpec(cpus=2)}
    cache_bytes: Size = 20 * 2**30
    """The most that each node keeps of models and data."""

    @model_validator(mode="before")
    @classmethod
    def _store_by_url(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("store"), str):
            return {**data, "store": {"url": data["store"]}}
        return data


def load_fleet(text: str, name: str, base: PurePosixPath) -> Fleet:
    """The fleet file's text, its name for errors, and the directory that relative paths start from.

    Errors: SpecError, with every mistake found, each with its line.
    """
    value, lines = yamltext.parse(text, name)
    if not isinstance(value, dict):
        raise SpecError(
            f"{name}:1: a fleet file is a mapping with the keys version, name, store, registries, …"
        )
    try:
        fleet = Fleet.model_validate(value)
    except ValidationError as error:
        messages = [_explain(dict(item), value, lines, name) for item in error.errors()]
        raise SpecError("\n".join(dict.fromkeys(messages))) from None
    _check_references(fleet, lines, name)
    return _absolute(fleet, base)


def json_schema() -> str:
    """The JSON Schema of a fleet file, for editors."""
    schema = Fleet.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "prunefleet fleet file"
    schema["properties"]["store"] = {"anyOf": [{"type": "string"}, schema["properties"]["store"]]}
    schema["$defs"]["EvaluateSpec"]["properties"]["latency"]["anyOf"].insert(0, {"type": "boolean"})
    schema["$defs"]["RecoverSpec"]["properties"]["distill"]["anyOf"].insert(0, {"type": "boolean"})
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _explain(item: dict[str, Any], value: Any, lines: dict[yamltext.Path, int], name: str) -> str:
    path = tuple(part for part in item["loc"] if part != "[key]")
    path, line = _nearest(path, lines)
    where = ".".join(str(part) for part in path)
    if item["type"] == "extra_forbidden":
        known = _known_keys(path[:-1])
        close = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known here: {', '.join(known)}"
        return f"{name}:{line}: {where}: unknown key {path[-1]!r}{hint}"
    message = item["msg"].removeprefix("Value error, ")
    given = item.get("input")
    shown = (
        f" (it is {given!r})"
        if isinstance(given, str | int | float | bool) and item["type"] != "missing"
        else ""
    )
    if item["type"] == "missing":
        message = f"the key {item['loc'][-1]!r} is missing"
    return f"{name}:{line}: {where or 'fleet'}: {message[0].lower()}{message[1:]}{shown}"


def _nearest(path: yamltext.Path, lines: dict[yamltext.Path, int]) -> tuple[yamltext.Path, int]:
    """The longest part of a pydantic location that stands in the text (union tags do not), and its line."""
    known: yamltext.Path = ()
    for part in path:
        if (*known, part) in lines:
            known = (*known, part)
    return known, lines.get(known, 1)


def _known_keys(path: yamltext.Path) -> list[str]:
    """The keys that the part of the fleet at this path has."""
    model: Any = Fleet
    fields = {
        "store": StoreSpec,
        "registries": DirectoryRegistrySpec,
        "datasets": DatasetSpec,
        "recipes": RecipeSpec,
        "pools": PoolSpec,
    }
    named = {"registries", "datasets", "recipes", "pools"}
    steps = {
        "match": Match,
        "sensitivity": SensitivitySpec,
        "prune": PruneSpec,
        "budget": BudgetSpec,
        "quality": QualitySpec,
        "recover": RecoverSpec,
        "cut": CutSpec,
        "distill": DistillSpec,
        "evaluate": EvaluateSpec,
        "latency": LatencySpec,
        "gates": GatesSpec,
        "publish": PublishSpec,
    }
    parts = list(path)
    if parts:
        first = str(parts.pop(0))
        model = fields.get(first, Fleet)
        if first in named and parts:
            parts.pop(0)
        for part in parts:
            model = steps.get(str(part), model)
    return list(model.model_fields)


def _check_references(fleet: Fleet, lines: dict[yamltext.Path, int], name: str) -> None:
    problems = []

    def check(path: yamltext.Path, wanted: str | None, known: Mapping[str, Any], kind: str) -> None:
        if wanted is None or wanted in known:
            return
        close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known) or 'none'}"
        problems.append(
            f"{name}:{lines.get(path, 1)}: {'.'.join(map(str, path))}: there is no {kind} {wanted!r}{hint}"
        )

    for key, recipe in fleet.recipes.items():
        at: yamltext.Path = ("recipes", key)
        if recipe.sensitivity:
            check((*at, "sensitivity", "dataset"), recipe.sensitivity.dataset, fleet.datasets, "dataset")
        if recipe.prune:
            check((*at, "prune", "dataset"), recipe.prune.dataset, fleet.datasets, "dataset")
        if recipe.evaluate:
            check((*at, "evaluate", "dataset"), recipe.evaluate.dataset, fleet.datasets, "dataset")
        if recipe.publish:
            check((*at, "publish", "registry"), recipe.publish.registry, fleet.registries, "registry")
        if not any(mark in recipe.match.registry for mark in "*?["):
            check((*at, "match", "registry"), recipe.match.registry, fleet.registries, "registry")
    if problems:
        raise SpecError("\n".join(problems))


def _absolute(fleet: Fleet, base: PurePosixPath) -> Fleet:
    def resolve(path: str) -> str:
        return str(base / path)

    store = (
        fleet.store
        if "://" in fleet.store.url
        else fleet.store.model_copy(update={"url": resolve(fleet.store.url)})
    )
    return fleet.model_copy(
        update={
            "store": store,
            "registries": {
                k: r.model_copy(update={"path": resolve(r.path)}) for k, r in fleet.registries.items()
            },
            "datasets": {
                k: d.model_copy(update={"path": resolve(d.path)}) for k, d in fleet.datasets.items()
            },
        }
    )

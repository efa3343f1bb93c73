"""Pure. YAML text -> Fleet: what the user writes, checked, with the line and a "did you mean" in every error."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)

from orchestrator.errors import SpecError
from orchestrator.gate.own_metrics import KNOWN, known_metric
from orchestrator.specs import yamltext
from orchestrator.specs.clusters import ClusterSpec
from orchestrator.specs.explaining import explained
from orchestrator.specs.nights import NotifySpec, ScheduleSpec
from orchestrator.specs.parts import Fraction, Name, Part, Positive, Size, with_defaults
from orchestrator.specs.promotion import PromotionSpec
from orchestrator.specs.prune import PruneSpec
from orchestrator.specs.registries import (
    DirectoryRegistrySpec,
    HuggingFaceRegistrySpec,
    RegistrySpec,
)
from orchestrator.specs.teams import Spend, TeamSpec

SCHEMA_FILE = "fleet.schema.json"


class StoreSpec(Part):
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
            if "://" in value and "@" in value:
                raise ValueError("credentials do not stand in this file; they come from the environment")
        return self


def _without_equals(column: str) -> str:
    """A column of slices: with `=` in its name, two slices `column=value` might have one name."""
    if "=" in column:
        raise ValueError(f"the slice column {column!r} has a '=' in its name; rename it in the data")
    return column


Column = Annotated[str, AfterValidator(_without_equals)]


class DatasetSpec(Part):
    """A data file: examples, an optional `label`, an optional `split`, and columns to slice by."""

    kind: Literal["text", "arrays", "choices"]
    """`choices`: questions with several answers, to evaluate language models by their accuracy: JSON lines with `text`,
    `choices` and `label`, the right one."""
    path: str
    slice_by: Column | tuple[Column, ...] = ()
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


class Match(Part):
    """Which model versions a recipe is for: shell-style patterns, all of which must match."""

    registry: str = "*"
    name: str = "*"
    version: str = "*"
    architecture: str = "*"


class SensitivitySpec(Part):
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


class LatencySpec(Part):
    """Time the pruned model against the dense one, in turns, on the pool's own nodes."""

    batch: Positive = 8
    """Examples that are computed together."""
    sequence: Positive = 128
    """Tokens of each, for models that read text."""
    repetitions: Annotated[int, Field(ge=6, le=1000)] = 20
    """Blocks of two passes of either model; with fewer than six there is no interval."""


class EvaluateSpec(Part):
    """Measure quality, dense and pruned, on the same examples."""

    dataset: str
    split: str = "all"
    samples: Positive | None = None
    metric: Annotated[str, AfterValidator(known_metric), Field(examples=[*KNOWN])]
    """`f1` is the mean over classes. `fidelity` is the share of predictions that agree with the dense model's, or the cosine
    of a headless model's embeddings with the dense ones; it looks at no label. `mse` and `mae` are of models that predict
    numbers. Any other name is that of an entry point of `prunefleet.metrics`."""
    slices: tuple[Column, ...] | None = None
    """The default is the dataset's `slice_by`, or else each label, and tenths of the dense model's confidence and of the
    length of texts; `[]` is none."""
    latency: Annotated[LatencySpec | None, BeforeValidator(with_defaults)] = None
    """`true`, or how to time the pruned model against the dense one; the default is not to."""


class GatesSpec(Part):
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
    spending: Literal["none", "by_version"] = "none"
    """Whether each verdict may err by 1 - confidence, or all versions of a model together: the n-th, counted in natural order
    among those that the recipe matches, then by 6 / (pi n)^2 of it."""


class PublishSpec(Part):
    """Where a model that passed goes, and the alias that then points to it."""

    registry: str
    alias: Name


class RecipeSpec(Part):
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
                elif self.prune.has_latency_budget and self.prune.criterion in ("magnitude", "random"):
                    what = "budget.latency"
                elif self.prune.recover and self.prune.criterion in ("magnitude", "random"):
                    what = "recover"
                raise ValueError(f"{what} needs calibration data: set prune.dataset, or a sensitivity step")
        return self


class PoolSpec(Part):
    """A class of nodes in a cluster."""

    cpus: Annotated[float, Field(ge=0)] = 0
    gpus: Annotated[float, Field(ge=0)] = 0
    memory: Size | None = None
    """Of all its nodes together."""
    memory_per_node: Size | None = None
    """Of its largest node, and nothing larger is planned; the default is what is there when a run begins on one Ray cluster."""
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


class Fleet(Part):
    """What the user writes: registries, datasets, recipes, pools, store."""

    version: Literal[1]
    name: Name
    store: StoreSpec
    registries: Annotated[Mapping[Name, RegistrySpec], Field(min_length=1)]
    datasets: Mapping[Name, DatasetSpec] = {}
    recipes: Annotated[Mapping[Name, RecipeSpec], Field(min_length=1)]
    pools: Annotated[Mapping[Name, PoolSpec], Field(min_length=1)] = {"local": PoolSpec(cpus=2)}
    clusters: Mapping[Name, ClusterSpec] = {}
    """Ray clusters that share the work; without any, a run is on one machine or at --address."""
    cache_bytes: Size = 20 * 2**30
    """The most that each node keeps of models and data."""
    schedule: ScheduleSpec | None = None
    """When `prunefleet nightly` runs."""
    notify: Mapping[Name, NotifySpec] = {}
    """Who is told of a night."""
    promotion: PromotionSpec | None = None
    """Which aliases need whose approval."""
    teams: Mapping[Name, TeamSpec] = {}
    """Who shares the pools, and how; work that no team claims is one of weight 1 and priority 0."""
    spend: Spend = "longest"
    """What comes first where the hours do not suffice: what takes longest, which ends a night soonest; or what saves most
    parameters an hour, within each team."""

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
        raise SpecError("\n".join(explained(error, Fleet, value, lines, name))) from None
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
        for step, part in (("sensitivity", recipe.sensitivity), ("prune", recipe.prune)):
            asked = fleet.datasets.get(part.dataset) if part and part.dataset else None
            if asked and asked.kind == "choices":
                problems.append(
                    f"{name}:{lines.get((*at, step, 'dataset'), 1)}: recipes.{key}.{step}.dataset: questions with choices are "
                    "for evaluate; calibrate on texts"
                )
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
        guarded = fleet.promotion.aliases if fleet.promotion else ()
        if recipe.publish and recipe.publish.alias in guarded:
            problems.append(
                f"{name}:{lines.get((*at, 'publish', 'alias'), 1)}: recipes.{key}.publish.alias: {recipe.publish.alias!r} needs "
                "approvals, and a night cannot give them; publish to another alias, such as candidate, and promote it"
            )
    homes: dict[str, list[str]] = {}
    for key, cluster in fleet.clusters.items():
        for pool in cluster.pools:
            check(("clusters", key, "pools"), pool, fleet.pools, "pool")
            homes.setdefault(pool, []).append(key)
    for pool in fleet.pools if fleet.clusters else ():
        if len(homes.get(pool, ())) != 1:
            where = f"in {' and in '.join(homes[pool])}" if pool in homes else "in no cluster"
            problems.append(
                f"{name}:{lines.get(('pools', pool), 1)}: pools.{pool}: it lies {where}; each pool lies in one cluster"
            )
    if problems:
        raise SpecError("\n".join(problems))


def _absolute_registry(registry: RegistrySpec, base: PurePosixPath) -> RegistrySpec:
    match registry:
        case DirectoryRegistrySpec():
            return registry.model_copy(update={"path": str(base / registry.path)})
        case HuggingFaceRegistrySpec() if registry.cache:
            cache = base / PurePosixPath(registry.cache)
            return registry.model_copy(update={"cache": str(cache)})
    return registry


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
            "registries": {key: _absolute_registry(one, base) for key, one in fleet.registries.items()},
            "datasets": {
                k: d.model_copy(update={"path": resolve(d.path)}) for k, d in fleet.datasets.items()
            },
        }
    )

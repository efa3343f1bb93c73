"""Effects. After the judging: of each model and alias, the best artifact that passed is published, once."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from orchestrator.domain import Chain, Judgement, TaskName, falls_with_harm
from orchestrator.errors import PrunefleetError, UsageError
from orchestrator.identity import digest
from orchestrator.survey import Survey

PREFIX = "publications/"
THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """An alias that now points to another artifact."""

    text: str
    """For people."""
    row: dict[str, Any]
    """A row of `promotions`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpublished:
    """A model and alias of which nothing could be published in this run; the next run tries again."""

    subject: str
    error: PrunefleetError


class Publications(NamedTuple):
    """What one run published, and what it could not."""

    published: tuple[Published, ...]
    unpublished: tuple[Unpublished, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """The judged chains that compete for one alias of one model."""

    registry: str
    alias: str
    model: str
    chains: tuple[Chain, ...]
    lenient: tuple[str, ...]
    """Those recipes that publish what their gates cannot tell; to change it is to decide anew."""

    @property
    def sources(self) -> list[str]:
        """The registries that its models come from."""
        return sorted({chain.model.registry for chain in self.chains})

    @property
    def marker(self) -> str:
        """Where it stands that this very competition has been decided and carried out."""
        judged: list[Any] = sorted((chain.judge, chain.recipe, chain.model.version) for chain in self.chains)
        if self.lenient:  # only then, so that what was decided without stays decided
            judged = [*judged, list(self.lenient)]
        return f"{PREFIX}{digest([self.registry, self.alias, self.model, judged])}.json"


def publish_passed(survey: Survey, done: Collection[str], run_id: str, at: float, actor: str) -> Publications:
    """Publishes what passed and has not been published; `done` are the keys of all units with a result.

    What is published is a set difference like everything else, so a crash in between costs nothing; a model that cannot be
    published is told, and keeps no other from it.
    """
    groups = list(_groups(survey, done))
    if not groups:
        return Publications((), ())
    decided = {stat.key for stat in survey.store.list(PREFIX)}
    moved: list[Published] = []
    failed: list[Unpublished] = []
    for group in groups:
        if group.marker in decided:
            continue
        try:
            moved.extend(_publish_group(survey, group, run_id, at, actor))
            note = {
                "registry": group.registry,
                "alias": group.alias,
                "model": group.model,
                "run_id": run_id,
                "at": at,
            }
            survey.store.put(group.marker, json.dumps(note).encode())
        except PrunefleetError as error:
            subject = f"{group.alias} of {group.model} in {group.registry}"
            failed.append(Unpublished(subject=subject, error=error))
    return Publications(tuple(moved), tuple(failed))


def _groups(survey: Survey, done: Collection[str]) -> Iterator[_Group]:
    found: dict[tuple[str, str, str], list[Chain]] = {}
    for chain in survey.plan.chains:
        goal = survey.fleet.recipes[chain.recipe].publish
        if goal and chain.judge in done:
            found.setdefault((goal.registry, goal.alias, chain.model.name), []).append(chain)
    for (registry, alias, model), chains in found.items():
        recipes = {chain.recipe: survey.fleet.recipes[chain.recipe].gates for chain in chains}
        lenient = tuple(
            sorted(r for r, gates in recipes.items() if gates and gates.inconclusive == "publish")
        )
        yield _Group(registry=registry, alias=alias, model=model, chains=tuple(chains), lenient=lenient)


def _publish_group(survey: Survey, group: _Group, run_id: str, at: float, actor: str) -> list[Published]:
    from orchestrator.promotion import aliases, publishing, signing
    from orchestrator.registries.opening import open_outlet

    if len(group.sources) > 1:
        raise UsageError(
            f"models of this name come from the registries {', '.join(group.sources)}: let their recipes publish to registries "
            "or aliases of their own"
        )
    with ThreadPoolExecutor(THREADS) as pool:
        weighed = zip(
            pool.map(lambda chain: _candidate(survey, chain), group.chains), group.chains, strict=True
        )
        candidates = [(candidate, chain) for candidate, chain in weighed if candidate]
    if not candidates:
        return []
    winner = publishing.choose([candidate for candidate, _ in candidates])
    chain = next(chain for candidate, chain in candidates if candidate is winner)
    outlet = open_outlet(group.registry, survey.fleet.registries[group.registry])
    publication = publishing.publish(
        survey.store,
        outlet,
        model=chain.model,
        recipe=chain.recipe,
        artifact_digest=winner.artifact_digest,
        verdict_key=chain.judge,
        at=at,
        actor=actor,
        run_id=run_id,
        measured=winner.measured,
        seal=signing.sealed(lambda: _statement(survey, chain, winner.artifact_digest, run_id, at)),
    )
    goal = survey.fleet.recipes[chain.recipe].publish
    assert goal
    judgement = winner.judgement
    reason = (
        f"passed its gates; best of {sum(c.judgement is judgement for c, _ in candidates)} that did"
        if judgement is Judgement.PASS
        else f"its gates could not tell, and say to publish then; best of {len(candidates)}"
    )
    move = aliases.move_to(
        publication, registry=group.registry, alias=goal.alias, reason=reason, fleet=survey.fleet.name
    )
    row = aliases.move_alias(survey.store, outlet, move)
    if row is None:
        return []
    text = f"{group.registry}/{group.model}@{publication.version} as {goal.alias}"
    return [Published(text=text, row=row)]


def _statement(survey: Survey, chain: Chain, artifact_digest: str, run_id: str, at: float) -> dict[str, Any]:
    from orchestrator.artifacts import artifact_files
    from orchestrator.promotion.attestation import statement
    from orchestrator.promotion.signing import builder_versions

    files = artifact_files(survey.store, artifact_digest)
    return statement(
        subjects={path: file.sha256 for path, file in files.items()},
        model=chain.model,
        recipe=chain.recipe,
        units=[survey.plan.units[key] for key in chain.units],
        run_id=run_id,
        at=at,
        versions=builder_versions(),
    )


def _candidate(survey: Survey, chain: Chain) -> Any:
    """What `choose` weighs, for a chain whose verdict is to pass, or not known where its gates say to publish then."""
    from orchestrator.promotion import publishing
    from orchestrator.tables import results

    gates = survey.fleet.recipes[chain.recipe].gates
    allowed = {Judgement.PASS.value}
    if gates and gates.inconclusive == "publish":
        allowed.add(Judgement.INCONCLUSIVE.value)
    judged = results.read(survey.store, TaskName.JUDGE, chain.judge)
    (verdict,) = [row["verdict"] for row in judged.rows("verdicts") if row["gate"] == "overall"]
    whole = next((row for row in judged.rows("evaluations") if row["slice"] == "all"), None)
    if verdict not in allowed or whole is None or whole["delta"] is None:
        return None
    (artifact,) = results.read(survey.store, TaskName.PRUNE, chain.prune).rows("artifacts")
    return publishing.Candidate(
        recipe=chain.recipe,
        version=chain.model.version,
        artifact_digest=artifact["digest"],
        nonzero_parameters=artifact["nonzero_parameters"],
        drop=-whole["delta"] if falls_with_harm(whole) else whole["delta"] / whole["dense_value"],
        judgement=Judgement(verdict),
        measured=_measured(whole, artifact),
    )


def _measured(whole: Mapping[str, Any], artifact: Mapping[str, Any]) -> dict[str, str]:
    """Quality and size, pruned and dense, of what is published."""
    metric = str(whole["metric"])
    found = {
        metric: whole["value"],
        f"dense_{metric}": whole["dense_value"],
        **{name: artifact.get(name) for name in ("bytes", "dense_bytes", "parameters", "nonzero_parameters")},
    }
    return {
        name: f"{value:.6g}" if isinstance(value, float) else str(value)
        for name, value in found.items()
        if value is not None
    }

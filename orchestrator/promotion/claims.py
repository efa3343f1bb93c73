"""Effects. What speaks for a published version: the chain of the plan whose artifact it is, and that chain's verdict."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.domain import Chain, TaskName
from orchestrator.errors import NotFound, UsageError
from orchestrator.names import natural
from orchestrator.ports import Outlet
from orchestrator.promotion.promoting import Claim
from orchestrator.promotion.publishing import published_version
from orchestrator.survey import Survey


def claim_of(survey: Survey, outlet: Outlet, model: str, version: str) -> Claim:
    """What speaks for a version, found by digests from the results; `version` may be an alias of the model.

    Errors: UsageError, if no verdict of this fleet is about it.
    """
    version = outlet.aliases(model).get(version, version)
    found: list[Claim] = []
    with outlet.shelf(model, make=False) as shelf:
        for chain in survey.plan.chains:
            if chain.model.name == model and (claim := _claim(survey, chain)):
                found.append(claim)
                if version in (claim.version, shelf.find(claim.version)):
                    return replace(claim, version=version)
    known = sorted((claim.version for claim in found), key=natural)
    there = (
        f"judged are {', '.join(known[-5:])}"
        if known
        else f"no model {model!r} of this fleet has a verdict yet"
    )
    raise UsageError(f"no verdict of this fleet is about {model}@{version}; {there}")


def _claim(survey: Survey, chain: Chain) -> Claim | None:
    """None where the chain has not come to a verdict."""
    from orchestrator.tables import results

    if not chain.judge or chain.judge not in survey.plan.done or chain.prune not in survey.plan.done:
        return None
    try:
        judged = results.read(survey.store, TaskName.JUDGE, chain.judge)
        (artifact,) = results.read(survey.store, TaskName.PRUNE, chain.prune).rows("artifacts")
    except NotFound:
        return None
    verdict = next((row["verdict"] for row in judged.rows("verdicts") if row["gate"] == "overall"), "")
    gates = survey.fleet.recipes[chain.recipe].gates
    return Claim(
        model=chain.model.name,
        version=published_version(chain.model.version, chain.recipe, artifact["digest"]),
        artifact_digest=artifact["digest"],
        verdict_key=chain.judge,
        verdict=verdict if gates else "",
        recipe=chain.recipe,
        may_be_inconclusive=gates is not None and gates.inconclusive == "publish",
        source_version=chain.model.version,
        source_digest=chain.model.digest,
    )

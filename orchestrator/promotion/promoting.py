"""Effects. Promotes, rolls back and tells the history: an alias moves only to the bytes that were judged, as often as agreed.

A proposal and its approvals are objects in the store, and move nothing. Whoever promotes derives the move anew from results and
registry, and looks whether enough people have approved exactly that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.artifacts import artifact_files, differences
from orchestrator.errors import (
    Damaged,
    GateRefused,
    GateUndecided,
    NoStableBytes,
    NotFound,
    NotPermitted,
    UsageError,
)
from orchestrator.ports import ObjectStore, Outlet
from orchestrator.promotion import approvals
from orchestrator.promotion.aliases import Move, move_alias
from orchestrator.promotion.approvals import Approval, Proposal
from orchestrator.specs.promotion import PromotionSpec

PREFIX = "proposals/"
ROLLED_BACK = "rolled back: "
"""Begins the reason of every rollback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A published version and what speaks for it, derived from results and not from records."""

    model: str
    version: str
    artifact_digest: str
    verdict_key: str
    verdict: str
    recipe: str
    may_be_inconclusive: bool = False
    """Whether the recipe says that what its gates cannot tell is published."""
    source_version: str = ""
    source_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """Where promotions are made."""

    store: ObjectStore
    outlet: Outlet
    fleet: str
    rule: PromotionSpec | None
    actor: str
    at: float
    environment: Mapping[str, str] = field(default_factory=dict)

    def rule_for(self, alias: str) -> PromotionSpec | None:
        """The rule that guards an alias."""
        return self.rule if self.rule is not None and alias in self.rule.aliases else None


def promote(office: Office, claim: Claim, alias: str, reason: str) -> dict[str, Any] | None:
    """Moves the alias to the claim's version; the row that records it, or None if it points there already.

    Errors: GateRefused; NotPermitted, with who is missing; Damaged, if the bytes are not those that were judged; AliasMoved.
    """
    check_verdict(claim)
    current = office.outlet.aliases(claim.model).get(alias)
    if current == claim.version:
        return None
    rule = office.rule_for(alias)
    actor, why = office.actor, reason
    if rule is not None:
        wanted = _proposal(office, claim, alias, current, reason)
        proposal, names = _approved(office, rule, wanted)
        actor = ", ".join(names)
        why = f"{proposal.reason} (proposal {proposal.id[:12]}, carried out by {office.actor})"
    check_bytes(office, claim.model, claim.version, claim.artifact_digest)
    move = Move(
        registry=office.outlet.name,
        model=claim.model,
        alias=alias,
        published_version=claim.version,
        at=office.at,
        actor=actor,
        reason=why,
        unit_key=claim.verdict_key,
        version=claim.source_version,
        model_digest=claim.source_digest,
        recipe=claim.recipe,
        artifact_digest=claim.artifact_digest,
        fleet=office.fleet,
    )
    return move_alias(office.store, office.outlet, move, expected=(current,))


def propose(office: Office, claim: Claim, alias: str, reason: str, key: bytes | None = None) -> Proposal:
    """Writes down that the alias be moved, approved by whoever proposes it. Errors: UsageError, GateRefused, Damaged."""
    rule = _needed_rule(office, alias)
    check_verdict(claim)
    check_bytes(office, claim.model, claim.version, claim.artifact_digest)
    current = office.outlet.aliases(claim.model).get(alias)
    if current == claim.version:
        raise UsageError(f"{alias} of {claim.model} points to {claim.version} already")
    proposal = _proposal(office, claim, alias, current, reason)
    approval = _own_approval(office, rule, proposal, key)
    office.store.put_if_absent(f"{PREFIX}{proposal.id}/proposal.json", _bytes(proposal))
    _put_approval(office, approval)
    return proposal


def approve(office: Office, claim: Claim, alias: str, key: bytes | None = None) -> Proposal:
    """Agrees to the proposal of exactly this move, which is derived anew. Errors: UsageError, if there is none; Damaged."""
    rule = _needed_rule(office, alias)
    check_verdict(claim)
    check_bytes(office, claim.model, claim.version, claim.artifact_digest)
    wanted = _proposal(office, claim, alias, office.outlet.aliases(claim.model).get(alias), "")
    found = [
        proposal
        for proposal, _ in _proposals(office)
        if not approvals.stale(proposal, wanted, rule, office.at)
    ]
    if not found:
        raise UsageError(
            f"nobody has proposed to move {alias} of {claim.model} to {claim.version} as things stand; `--propose` does"
        )
    proposal = max(found, key=lambda one: one.proposed_at)
    _put_approval(office, _own_approval(office, rule, proposal, key))
    return proposal


def rollback(
    office: Office, model: str, alias: str, reason: str, to: str | None = None
) -> dict[str, Any] | None:
    """Moves the alias back to a version that it pointed to before; the row that records it.

    Needs no new approval; where approvals are needed, the version must have had them. Errors: UsageError, NotPermitted, Damaged.
    """
    rows = [row for row in history(office.store, office.outlet.url, model) if row["alias"] == alias]
    current = office.outlet.aliases(model).get(alias)
    target = to or _before(rows, current, model, alias)
    pointed = {row["published_version"] for row in rows} | {row["previous_version"] for row in rows}
    if target not in pointed:
        known = ", ".join(sorted(name for name in pointed if name)) or "none"
        raise UsageError(
            f"{alias} of {model} never pointed to {target}; it pointed to {known}; `promote` moves it elsewhere"
        )
    last = next((row for row in reversed(rows) if row["published_version"] == target), None)
    artifact = (last or {}).get("artifact_digest") or ""
    rule = office.rule_for(alias)
    if rule is not None:
        artifact = _approved_before(office, rule, model, alias, target)
    if artifact:
        check_bytes(office, model, target, artifact)
    source = last or {}
    move = Move(
        registry=office.outlet.name,
        model=model,
        alias=alias,
        published_version=target,
        at=office.at,
        actor=office.actor,
        reason=f"{ROLLED_BACK}{reason}",
        unit_key=source.get("unit_key") or "",
        version=source.get("version") or "",
        model_digest=source.get("model_digest") or "",
        recipe=source.get("recipe") or "",
        artifact_digest=artifact,
        fleet=office.fleet,
    )
    return move_alias(office.store, office.outlet, move, expected=(current,))


def history(
    store: ObjectStore, registry_url: str | None = None, model: str | None = None
) -> list[dict[str, Any]]:
    """Rows of `promotions` in the order of the moves, by whichever fleet; of the registry at that address."""
    from orchestrator.tables.records import read_records

    rows: list[dict[str, Any]] = read_records(store, "promotions").table.to_pylist()
    return [
        row
        for row in rows
        if (registry_url is None or row["registry_url"] == registry_url)
        and (model is None or row["model"] == model)
    ]


def check_verdict(claim: Claim) -> None:
    """Errors: GateRefused, if the claim's verdict does not allow to promote it."""
    if claim.verdict == "pass" or (claim.verdict == "inconclusive" and claim.may_be_inconclusive):
        return
    told = f"the verdict on {claim.model}@{claim.version} is {claim.verdict or 'not there'}"
    if claim.verdict == "inconclusive":
        raise GateUndecided(f"{told}; gates: {{inconclusive: publish}} would allow it")
    raise GateRefused(told)


def check_bytes(office: Office, model: str, version: str, artifact_digest: str) -> None:
    """Errors: Damaged, if the version in the registry is not that artifact, byte by byte; NoSuchVersion."""
    files = artifact_files(office.store, artifact_digest)
    with office.outlet.opened(model, version) as directory:
        lines = differences(directory, files, office.outlet.adds)
    if lines:
        raise Damaged(
            f"{model}@{version} in {office.outlet.url} is not the artifact {artifact_digest}: {'; '.join(lines[:5])}"
        )


def _approved(office: Office, rule: PromotionSpec, wanted: Proposal) -> tuple[Proposal, tuple[str, ...]]:
    """The proposal of this move that enough people have approved, and who. Errors: NotPermitted."""
    refusals: list[str] = []
    best: tuple[str, ...] = ()
    for proposal, given in _proposals(office):
        if why := approvals.stale(proposal, wanted, rule, office.at):
            if (proposal.model, proposal.alias) == (wanted.model, wanted.alias):
                refusals.append(f"proposal {proposal.id[:12]}: {why}")
            continue
        names, refused = approvals.counted(proposal.id, given, rule, office.environment, office.at)
        refusals += refused
        if len(names) >= rule.approvals:
            return proposal, names
        best = max(best, names, key=len)
    told = f"; {'; '.join(refusals[:5])}" if refusals else ""
    raise NotPermitted(
        f"{wanted.alias} of {wanted.model} needs {rule.approvals} approvals and has {len(best)}"
        f"{f' ({chr(44).join(best)})' if best else ''}: `promote --propose`, then `promote --approve` by others{told}"
    )


def _approved_before(office: Office, rule: PromotionSpec, model: str, alias: str, version: str) -> str:
    """The artifact for which this alias was once approved to point to the version. Errors: NotPermitted."""
    for proposal, given in _proposals(office):
        meant = (
            proposal.fleet,
            proposal.registry,
            proposal.registry_url,
            proposal.model,
            proposal.alias,
            proposal.version,
        )
        if meant != (office.fleet, office.outlet.name, office.outlet.url, model, alias, version):
            continue
        names, _ = approvals.counted(proposal.id, given, rule, office.environment, None)
        if len(names) >= rule.approvals:
            return proposal.artifact_digest
    raise NotPermitted(
        f"{alias} of {model} was never approved to point to {version} by {rule.approvals} people whose approvals count today; "
        "`promote` it instead"
    )


def _before(rows: Sequence[Mapping[str, Any]], current: str | None, model: str, alias: str) -> str:
    if not rows:
        raise UsageError(f"no move of {alias} of {model} is recorded, so there is nothing to go back to")
    last = rows[-1]
    if last["published_version"] != current:
        raise UsageError(
            f"{alias} of {model} points to {current}, the last recorded move was to {last['published_version']}: "
            "somebody else moved it; name the version with --to"
        )
    trail: list[str | None] = [rows[0]["previous_version"]]
    for row in rows:  # whoever goes back to a version leaves what came after it
        version = row["published_version"]
        is_back = str(row["reason"]).startswith(ROLLED_BACK) and version in trail
        trail = [*trail[: trail.index(version)], version] if is_back else [*trail, version]
    if len(trail) < 2 or not trail[-2]:
        raise UsageError(f"{alias} of {model} pointed to nothing before {current}; name a version with --to")
    return trail[-2]


def _proposal(office: Office, claim: Claim, alias: str, current: str | None, reason: str) -> Proposal:
    rows = history(office.store, office.outlet.url, claim.model)
    return Proposal(
        fleet=office.fleet,
        registry=office.outlet.name,
        registry_url=office.outlet.url,
        model=claim.model,
        alias=alias,
        version=claim.version,
        artifact_digest=claim.artifact_digest,
        verdict_key=claim.verdict_key,
        verdict=claim.verdict,
        recipe=claim.recipe,
        previous_version=current,
        moves=sum(row["alias"] == alias for row in rows),
        proposed_at=office.at,
        proposed_by=office.actor,
        reason=reason,
    )


def _own_approval(office: Office, rule: PromotionSpec, proposal: Proposal, key: bytes | None) -> Approval:
    signer = rule.signers.get(office.actor)
    if rule.signers and signer is None:
        raise NotPermitted(f"{office.actor} is none of the signers: {', '.join(sorted(rule.signers))}")
    approval = Approval(proposal=proposal.id, actor=office.actor, at=office.at)
    return approvals.signed(approval, signer, office.environment, key)


def _put_approval(office: Office, approval: Approval) -> None:
    office.store.put(f"{PREFIX}{approval.proposal}/approvals/{approval.actor}.json", _bytes(approval))


def _needed_rule(office: Office, alias: str) -> PromotionSpec:
    rule = office.rule_for(alias)
    if rule is None:
        raise UsageError(f"the alias {alias} needs no approval; `promote` without --propose moves it")
    return rule


def _proposals(office: Office) -> Iterator[tuple[Proposal, list[Approval]]]:
    """Every proposal that says what its name says, with what claims to be an approval of it; what is neither is passed by."""
    given: dict[str, list[Approval]] = {}
    found: dict[str, Proposal] = {}
    for stat in office.store.list(PREFIX):
        name, _, rest = stat.key.removeprefix(PREFIX).partition("/")
        try:
            value = json.loads(office.store.get(stat.key))
            if rest != "proposal.json":
                given.setdefault(name, []).append(approvals.approval_of(value))
            elif (proposal := approvals.proposal_of(value)).id == name:
                found[name] = proposal
        except (ValueError, RecursionError, NoStableBytes, NotFound):
            continue  # a stranger's object must not keep others from promoting
    for name, proposal in found.items():
        yield proposal, given.get(name, [])


def _bytes(value: Proposal | Approval) -> bytes:
    return json.dumps(asdict(value), indent=1, sort_keys=True).encode()

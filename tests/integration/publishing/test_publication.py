"""What is published after a run: the best of each model and alias, with its own origin; what cannot be, keeps no other from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
from cases.publications import AT, make_artifact, source

from orchestrator.domain import Chain, Judgement
from orchestrator.endings import _told, code_of
from orchestrator.errors import Damaged, NotPermitted, UsageError
from orchestrator.identity import digest_bytes
from orchestrator.promotion import publication, publishing
from orchestrator.promotion.publication import Unpublished, publish_passed
from orchestrator.registries.directory_outlet import DirectoryOutlet
from orchestrator.specs.registries import DirectoryRegistrySpec


@dataclass
class Case:
    """One judged chain, and what its results say."""

    model: str = "org/lm"
    version: str = "v1"
    registry: str = "zoo"
    recipe: str = "half"
    size: int = 50
    verdict: str = "pass"
    artifact: int = 0

    @property
    def chain(self):
        dense = replace(
            source(self.model, self.version), registry=self.registry, digest=digest_bytes(f"{self}".encode())
        )
        key = "/".join((self.registry, self.model, self.version, self.recipe))
        return Chain(recipe=self.recipe, model=dense, units=(), prune="", dense="", pruned="", judge=key)


@pytest.fixture
def publish(tmp_path, store, monkeypatch):
    """Publishes these cases; what was published, and what could not be."""
    artifacts = [make_artifact(store, tmp_path, number) for number in range(4)]
    kinds = {
        "half": SimpleNamespace(gates=None, publish=SimpleNamespace(registry="out", alias="candidate")),
        "other": SimpleNamespace(gates=None, publish=SimpleNamespace(registry="out", alias="candidate")),
        "unpublished": SimpleNamespace(gates=None, publish=None),
    }
    outs = {"out": DirectoryRegistrySpec(kind="directory", path=str(tmp_path / "out"))}

    def publish(*cases, done=None):
        known = {case.chain.judge: case for case in cases}

        def candidate(_, chain):
            case = known[chain.judge]
            if case.verdict != "pass":
                return None
            return publishing.Candidate(
                version=case.version, recipe=case.recipe, artifact_digest=artifacts[case.artifact],
                nonzero_parameters=case.size, drop=0.0, judgement=Judgement.PASS,
            )  # fmt: skip

        monkeypatch.setattr(publication, "_candidate", candidate)
        plan = SimpleNamespace(chains=[case.chain for case in cases], units={})
        fleet = SimpleNamespace(name="demo", recipes=kinds, registries=outs)
        survey = SimpleNamespace(plan=plan, fleet=fleet, store=store)
        return publish_passed(survey, known.keys() if done is None else done, "run-1", AT, "ada")

    return publish


def rows(published):
    return [(one.row["model"], one.row["version"], one.row["recipe"]) for one in published]


def test_the_smallest_of_the_newest_version_is_published_with_its_own_origin(publish):
    best = Case(version="v10", recipe="other", size=10, artifact=1)
    done = publish(Case(version="v9", size=1, artifact=2), Case(version="v10", size=20), best)
    assert done.unpublished == ()
    assert rows(done.published) == [("org/lm", "v10", "other")]
    assert done.published[0].row["model_digest"] == best.chain.model.digest
    assert done.published[0].row["unit_key"] == best.chain.judge


def test_what_did_not_pass_was_not_judged_or_is_not_to_be_published_is_not(publish):
    refused, unwanted, open_one = Case(verdict="block"), Case(recipe="unpublished"), Case(model="org/new")
    assert publish(refused, unwanted, open_one, done={refused.chain.judge, unwanted.chain.judge}) == ((), ())


def test_a_decided_competition_is_not_held_again_until_somebody_new_takes_part(publish):
    assert len(publish(Case()).published) == 1
    assert publish(Case()) == ((), ())
    again = publish(Case(), Case(recipe="other", size=1, artifact=1))
    assert rows(again.published) == [("org/lm", "v1", "other")]


def test_models_of_two_registries_with_one_name_never_stand_in_for_each_other(publish, tmp_path):
    mixed = publish(
        Case(registry="zoo"), Case(registry="prod", artifact=1), Case(model="org/else", artifact=2)
    )
    assert rows(mixed.published) == [("org/else", "v1", "half")]
    (failed,) = mixed.unpublished
    assert failed.subject == "candidate of org/lm in out"
    assert "from the registries prod, zoo" in str(failed.error)
    assert not (tmp_path / "out" / "org" / "lm").exists()


def test_a_model_that_cannot_be_published_keeps_no_other_from_it_and_is_tried_again(publish, monkeypatch):
    real, broken = DirectoryOutlet.shelf, {"org/b"}

    def shelf(self, model, *more, **named):
        if model in broken:
            raise Damaged(f"{model} was tampered with")
        return real(self, model, *more, **named)

    monkeypatch.setattr(DirectoryOutlet, "shelf", shelf)
    cases = [Case(model=f"org/{letter}", artifact=number) for number, letter in enumerate("abc")]
    done = publish(*cases)
    assert [row[0] for row in rows(done.published)] == ["org/a", "org/c"]
    assert [one.subject for one in done.unpublished] == ["candidate of org/b in out"]
    broken.clear()
    assert rows(publish(*cases).published) == [("org/b", "v1", "half")]


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([NotPermitted("read only")], 77),
        ([NotPermitted("read only"), Damaged("bent")], 4),
        ([Damaged("bent")], 4),
        ([UsageError("one name")], 4),
    ],
)
def test_the_exit_code_says_whether_somebody_has_to_look(errors, code):
    failed = [Unpublished(subject=f"candidate of m{at}", error=error) for at, error in enumerate(errors)]
    assert code_of(failed) == code
    assert _told(failed).startswith(f"not published: candidate of m0: {errors[0]}")
    assert ("and 1 more" in _told(failed)) == (len(errors) == 2)

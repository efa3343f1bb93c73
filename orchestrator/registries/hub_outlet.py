"""Effects. The writing side of a Hugging Face Hub: a commit on `main` that names its parent, and tags as aliases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.durable import regular_files
from orchestrator.errors import AliasMoved, NoSuchVersion, NotPermitted, RegistryError
from orchestrator.names import problem_of_part, problem_of_path, shown
from orchestrator.registries.hub import HubSource, is_commit
from orchestrator.registries.modelcard import CARD, model_card
from orchestrator.scratch import scratch_directory
from orchestrator.specs.registries import HuggingFaceRegistrySpec

BRANCH = "main"
_TRIES = 5
_OF_THE_HUB = ".gitattributes"


@dataclass(frozen=True, slots=True)
class HubShelf:
    """A Shelf: one repository. A version is a commit; the tag of its label finds it again."""

    source: HubSource
    repository: str

    def find(self, label: str) -> str | None:
        """The commit that the label's tag names."""
        if why := problem_of_part(label):
            raise RegistryError(f"{shown(label)!r} cannot be a version: {why}")
        return self._tags().get(label)

    def place(
        self,
        label: str,
        fill: Callable[[Path], None],
        lineage: Mapping[str, str],
        seal: Callable[[Path], None] | None = None,
    ) -> str:
        """Commits the files, a model card and the removal of what else is there, on the parent that was read; then tags it."""
        with scratch_directory() as aside:
            fill(aside)
            if not (aside / CARD).exists():
                (aside / CARD).write_text(model_card(label, lineage))
            if seal:
                seal(aside)
            commit = self._commit(label, aside, regular_files(aside))
        self._tag(label, commit)
        return commit

    def has(self, version: str) -> bool:
        """Whether there is such a commit."""
        if why := problem_of_part(version):
            raise RegistryError(f"{shown(version)!r} cannot be a version: {why}")
        if not is_commit(version):
            return False
        try:
            self.source.offer(self.repository, version)
        except NoSuchVersion:
            return False
        return True

    def aliases(self) -> Mapping[str, str]:
        """Every tag and its commit."""
        return self._tags()

    def point(self, alias: str, version: str, previous: str | None) -> None:
        """Deletes the tag and makes it anew: the Hub moves none. For that moment the alias is not there."""
        if (current := self._tags().get(alias)) != previous:
            raise AliasMoved(
                f"{alias} of {self.repository} points to {current} by now, not to {previous}; "
                "look at its history, then move it again"
            )
        if current is not None:
            api = self.source.server.api
            self.source.server.asked(
                lambda: api.delete_tag(self.repository, tag=alias), f"{self.repository} {alias}"
            )
        self._tag(alias, version)

    def _commit(self, label: str, aside: Path, paths: list[str]) -> str:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete
        from huggingface_hub.errors import HfHubHTTPError

        api = self.source.server.api
        for attempt in range(_TRIES):
            parent = self.source.refs(self.repository)[0].get(BRANCH)
            there = self.source.files(self.source.offer(self.repository, parent)) if parent else {}
            gone = [path for path in there if path not in paths and path != _OF_THE_HUB]
            operations: list[CommitOperationAdd | CommitOperationDelete] = [
                *(CommitOperationDelete(path_in_repo=path) for path in gone),
                *(CommitOperationAdd(path_in_repo=path, path_or_fileobj=aside / path) for path in paths),
            ]
            try:
                made = api.create_commit(
                    self.repository,
                    [*operations],
                    commit_message=f"prunefleet: {label}",
                    revision=BRANCH,
                    parent_commit=parent,
                )
            except HfHubHTTPError as error:
                status = error.response.status_code if error.response is not None else 0
                if status in (409, 412) and attempt < _TRIES - 1:
                    continue  # another commit came first
                raise self.source.server.meant(status, f"a commit to {self.repository}") from error
            return str(made.oid)
        raise RegistryError(f"others commit to {self.repository} all the time")

    def _tag(self, name: str, commit: str) -> None:
        api = self.source.server.api
        what = f"the tag {name} of {self.repository}"
        self.source.server.asked(lambda: api.create_tag(self.repository, tag=name, revision=commit), what)

    def _tags(self) -> dict[str, str]:
        tags = self.source.refs(self.repository)[1]
        return {name: commit for name, commit in tags.items() if not problem_of_part(name)}


class HubOutlet:
    """An Outlet at a Hub. Errors: NotPermitted, for a cache: that is only read."""

    locks = False
    adds = frozenset({CARD})

    def __init__(self, name: str, spec: HuggingFaceRegistrySpec):
        if spec.cache is not None:
            raise NotPermitted(
                f"registry {name} is a cache, which is only read; publish to a Hub or another kind"
            )
        self.name = name
        self._spec = spec
        self._source = HubSource(spec)

    @property
    def url(self) -> str:
        """The Hub's address."""
        return self._source.server.url

    @contextmanager
    def shelf(self, model: str, *, make: bool) -> Iterator[HubShelf]:
        """The model's repository, made if `make`."""
        repository = self._repository(model)
        api = self._source.server.api
        if make:
            self._source.server.asked(
                lambda: api.create_repo(repository, private=self._spec.private, exist_ok=True), repository
            )
        else:
            self._refs(repository)
        yield HubShelf(self._source, repository)

    def aliases(self, model: str) -> Mapping[str, str]:
        """The repository's tags; nothing if there is none."""
        try:
            return HubShelf(self._source, self._repository(model)).aliases()
        except NoSuchVersion:
            return {}

    @contextmanager
    def opened(self, model: str, version: str) -> Iterator[Path]:
        """The commit's files and their card, downloaded, without what the Hub itself adds to every repository."""
        offer = self._source.offer(self._repository(model), version)
        with scratch_directory() as aside:
            for path, file in self._source.files(offer).items():
                if path == _OF_THE_HUB:
                    continue
                if why := problem_of_path(path):
                    raise RegistryError(f"{shown(path)!r} cannot be a file of a version: {why}")
                (aside / path).parent.mkdir(parents=True, exist_ok=True)
                self._source.read(offer, path, file, aside / path)
            yield aside

    def probe(self) -> str:
        """Whose token this is, and whether it may write."""
        found = self._source.server.asked(self._source.server.api.whoami, "the owner of the token")
        token = found.get("auth", {}).get("accessToken", {})
        role = str(token.get("role", ""))
        if role == "read":
            raise NotPermitted(f"the token in HF_TOKEN may only read at {self.url}; make one that may write")
        return f"{shown(str(found.get('name')))} may write at {self.url}"

    def _refs(self, repository: str) -> None:
        try:
            self._source.refs(repository)
        except NoSuchVersion as error:
            raise RegistryError(f"{self.url} has no model {repository}") from error

    def _repository(self, model: str) -> str:
        """`owner/name`; a name with more parts, or of another owner than the fleet's, keeps them as `__`."""
        if why := problem_of_path(model):
            raise RegistryError(f"{shown(model)!r} cannot be the name of a model: {why}")
        owner = self._spec.owner
        if owner is None and model.count("/") != 1:
            raise RegistryError(f"{model!r} names no repository: set `owner` in registries.{self.name}")
        if owner is None or (model.startswith(f"{owner}/") and model.count("/") == 1):
            return model
        return f"{owner}/{model.removeprefix(f'{owner}/').replace('/', '__')}"

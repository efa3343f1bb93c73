"""Effects. The writing side of a directory of models: versions by rename, aliases in one file, a lock for each model."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import NoSuchVersion, NotPermitted, RegistryError
from orchestrator.names import problem_of_part, problem_of_path, shown
from orchestrator.registries.aliasfile import FILE, MAX_FILE_BYTES, alias_text, parse_aliases
from orchestrator.registries.placing import (
    explained,
    has_version,
    locked_model,
    place_version,
    read_file,
    replace_file,
)
from orchestrator.registries.tree import open_below, open_root, path_of


@dataclass(frozen=True, slots=True)
class DirectoryShelf:
    """A Shelf: one model's directory, open and locked."""

    directory: int

    def find(self, label: str) -> str | None:
        """The version of that name: here, versions are called what they are labelled."""
        return label if has_version(self.directory, label) else None

    def place(
        self,
        label: str,
        fill: Callable[[Path], None],
        lineage: Mapping[str, str],
        seal: Callable[[Path], None] | None = None,
    ) -> str:
        """Renamed into its place when it is whole; its lineage is what `prunefleet.json` and the store say."""

        def make(into: Path) -> None:
            fill(into)
            if seal:
                seal(into)

        place_version(self.directory, label, make)
        return label

    def has(self, version: str) -> bool:
        """Whether there is such a directory."""
        return has_version(self.directory, version)

    def aliases(self) -> Mapping[str, str]:
        """What the file says."""
        return parse_aliases(read_file(self.directory, FILE, MAX_FILE_BYTES))

    def point(self, alias: str, version: str, previous: str | None) -> None:
        """Rewrites the file; the lock keeps others away, so `previous` is what it was."""
        replace_file(self.directory, FILE, alias_text({**self.aliases(), alias: version}))


class DirectoryOutlet:
    """An Outlet in a directory of this machine or of a file system that it mounts."""

    locks = True
    adds = frozenset[str]()

    def __init__(self, name: str, root: Path):
        self.name = name
        self.root = root

    @property
    def url(self) -> str:
        """The directory, by the one path that does not go through links or `..`."""
        return str(self.root.resolve())

    @contextmanager
    def shelf(self, model: str, *, make: bool) -> Iterator[DirectoryShelf]:
        """The model's directory, for this process alone."""
        with locked_model(self.root, model, make=make) as directory:
            yield DirectoryShelf(directory)

    def aliases(self, model: str) -> Mapping[str, str]:
        """What the model's alias file says."""
        if not (self.root / model).exists():
            return {}
        with (
            explained(f"the aliases of {model} in {self.root} cannot be read"),
            open_root(self.root) as root,
            open_below(root, model.split("/")) as directory,
        ):
            return parse_aliases(read_file(directory, FILE, MAX_FILE_BYTES))

    @contextmanager
    def opened(self, model: str, version: str) -> Iterator[Path]:
        """The version's own directory, reached without following a link."""
        if why := problem_of_path(model) or problem_of_part(version):
            raise RegistryError(f"{shown(f'{model}@{version}')} is no name of a model version: {why}")
        with open_root(self.root) as root, self._below(root, [*model.split("/"), version]) as directory:
            yield path_of(directory)

    def probe(self) -> str:
        """Whether this user may make directories there, or in the nearest directory above that exists."""
        there = self.root
        while not there.exists() and there != there.parent:
            there = there.parent
        if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            return f"{there} can be written"
        raise NotPermitted(f"{there} cannot be written by this user, or is no directory")

    @contextmanager
    def _below(self, root: int, parts: list[str]) -> Iterator[int]:
        with ExitStack() as stack:
            try:
                directory = stack.enter_context(open_below(root, parts))
            except FileNotFoundError as error:
                raise NoSuchVersion(f"{'/'.join(parts)} is not in {self.root}") from error
            except OSError as error:
                hint = (
                    "; a link or a file is in the way" if error.errno in (errno.ENOTDIR, errno.ELOOP) else ""
                )
                raise RegistryError(
                    f"{'/'.join(parts)} in {self.root} cannot be opened: {error.strerror}{hint}"
                ) from error
            yield directory

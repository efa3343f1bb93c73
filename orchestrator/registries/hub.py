"""Effects. Repositories of a Hugging Face Hub: each wanted branch or tag is read once, and its commit is the version."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

from orchestrator.errors import NoSuchVersion, NotPermitted, PrunefleetError, RegistryError, Unreachable
from orchestrator.names import is_sha256, natural, problem_of_path, shown
from orchestrator.registries.remote import Offer, RemoteFile
from orchestrator.registryspec import HuggingFaceRegistrySpec

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAX_REDIRECTS = 4
_BLOCK = 1 << 20

Asked = TypeVar("Asked")


class HubSource:
    """A Source at a Hub. HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are read from the environment."""

    def __init__(self, spec: HuggingFaceRegistrySpec):
        self._spec = spec
        self._api: HfApi | None = None

    @property
    def api(self) -> HfApi:
        """The Hub's client, made where it is used."""
        if self._api is None:
            from huggingface_hub import HfApi

            self._api = HfApi(endpoint=self._spec.endpoint)
        return self._api

    @property
    def url(self) -> str:
        """The Hub's address."""
        return str(self.api.endpoint)

    def offers(self) -> Iterator[Offer]:
        """By repository, then by the first of the names that a commit has."""
        for repository, is_named in self._repositories():
            try:
                yield from self._commits(repository)
            except NoSuchVersion:
                if is_named:
                    why = f"{self.url} has no such repository, or does not show it to this token"
                    yield Offer(
                        name=repository,
                        version="main",
                        vouched="",
                        uri=f"{self.url}/{repository}",
                        problem=why,
                    )

    def offer(self, name: str, version: str) -> Offer:
        """A commit, named in full. Errors: NoSuchVersion."""
        if not is_commit(version):
            raise NoSuchVersion(f"{shown(version)} is no commit: 40 hex digits are")
        return self._offer(name, version, ())

    def files(self, offer: Offer) -> Mapping[str, RemoteFile]:
        """What the Hub lists of the commit, with the SHA-256 of large files. Errors: NoSuchVersion."""
        found = self.asked(
            lambda: self.api.model_info(offer.name, revision=offer.version, files_metadata=True),
            f"{offer.name} at {offer.version}",
        )
        if found.sha != offer.version:
            raise NoSuchVersion(f"{offer.name}@{offer.version}: the Hub answers with {shown(str(found.sha))}")
        return {one.rfilename: _file(one) for one in found.siblings or ()}

    def read(self, offer: Offer, path: str, file: RemoteFile, into: Path) -> None:
        """Downloads one file of the commit, never more than the Hub listed."""
        count = 0
        with self._opened(offer, path, {}) as answer, into.open("xb") as copy:
            for block in answer.iter_bytes(_BLOCK):
                count += len(block)
                if count > file.bytes:
                    raise RegistryError(f"{shown(path)} of {offer.name} is longer than it was listed")
                copy.write(block)

    def head(self, offer: Offer, path: str, count: int) -> bytes:
        """The first bytes of a file, by a range; what a server sends beyond it is not read."""
        found = bytearray()
        with self._opened(offer, path, {"Range": f"bytes=0-{count - 1}"}) as answer:
            for block in answer.iter_bytes(min(count, _BLOCK)):
                found += block
                if len(found) >= count:
                    break
        return bytes(found[:count])

    def asked(self, ask: Callable[[], Asked], what: str) -> Asked:
        """What the Hub answers. Errors: NoSuchVersion, NotPermitted, Unreachable, RegistryError."""
        from huggingface_hub import errors

        try:
            return ask()
        except errors.OfflineModeIsEnabled as error:
            raise Unreachable(
                f"{self.url} is not asked for {shown(what)}, for HF_HUB_OFFLINE is set; name a `cache` to read that"
            ) from error
        except errors.GatedRepoError as error:
            raise NotPermitted(
                f"{shown(what)} is gated at {self.url}: accept its terms, and set HF_TOKEN"
            ) from error
        except errors.HfHubHTTPError as error:
            raise self.meant(error.response.status_code if error.response is not None else 0, what) from error
        except (errors.HFValidationError, ValueError) as error:
            raise RegistryError(f"{self.url}: {shown(what)}: {shown(str(error))}") from error
        except (_transport_error(), OSError) as error:
            raise Unreachable(f"{self.url} does not answer ({type(error).__name__})") from error

    def refs(self, repository: str) -> dict[str, str]:
        """Branch or tag -> commit. Errors: NoSuchVersion."""
        found = self.asked(lambda: self.api.list_repo_refs(repository), repository)
        return {one.name: one.target_commit for one in (*found.branches, *found.tags)}

    def _repositories(self) -> Iterator[tuple[str, bool]]:
        """Each once, in order; whether the fleet names it."""
        seen = set()
        for repository in self._spec.repositories:
            if repository not in seen:
                seen.add(repository)
                yield repository, True
        if self._spec.owner:
            listing = self.asked(
                lambda: iter(self.api.list_models(author=self._spec.owner)), self._spec.owner
            )
            while (found := self.asked(lambda: next(listing, None), self._spec.owner)) is not None:
                if found.id not in seen:
                    seen.add(found.id)
                    yield found.id, False

    def _commits(self, repository: str) -> Iterator[Offer]:
        if why := problem_of_path(repository):
            yield Offer(
                name=repository,
                version="main",
                vouched="",
                uri=self.url,
                problem=f"its name cannot be used: {why}",
            )
            return
        names: dict[str, list[str]] = {}
        for name, commit in sorted(self.refs(repository).items(), key=lambda item: natural(item[0])):
            if any(fnmatchcase(name, wanted) for wanted in self._spec.revisions):
                names.setdefault(commit, []).append(name)
        for commit, refs in names.items():
            yield self._offer(repository, commit, tuple(refs))

    def _offer(self, repository: str, commit: str, refs: tuple[str, ...]) -> Offer:
        return Offer(
            name=repository,
            version=commit,
            vouched=commit,
            uri=f"{self.url}/{repository}/tree/{commit}",
            aliases=refs,
            tags={"refs": ", ".join(refs)} if refs else {},
            problem="" if is_commit(commit) else "the Hub names a commit that is none",
        )

    @contextmanager
    def _opened(self, offer: Offer, path: str, headers: Mapping[str, str]) -> Iterator[Any]:
        """The answer to a request for a file; redirects are followed only as `may_follow` says, without the token."""
        from huggingface_hub import get_session, get_token, hf_hub_url

        token = get_token()
        own = {"Authorization": f"Bearer {token}"} if token else {}
        url = hf_hub_url(offer.name, path, revision=offer.version, endpoint=self.url)
        what = f"{path} of {offer.name} at {offer.version}"
        for _ in range(MAX_REDIRECTS):
            is_own = urlsplit(url).netloc == urlsplit(self.url).netloc
            sent = {**(own if is_own else {}), **headers, "Accept-Encoding": "identity"}
            stream = get_session().stream("GET", url, headers=sent, follow_redirects=False)
            answer = self.asked(stream.__enter__, what)
            try:
                if 300 <= answer.status_code < 400:
                    url = urljoin(url, answer.headers.get("location", ""))
                    if why := may_not_follow(url, self.url):
                        raise RegistryError(f"{self.url} redirects {shown(what)} to {shown(url)}: {why}")
                    continue
                if answer.status_code >= 400:
                    raise self.meant(answer.status_code, what)
                yield answer
                return
            except _transport_error() as error:
                raise Unreachable(f"{self.url} broke off while {shown(what)} was read") from error
            finally:
                stream.__exit__(None, None, None)
        raise RegistryError(f"{self.url} redirects {shown(what)} again and again")

    def meant(self, status: int, what: str) -> PrunefleetError:
        """The error that an answer of this status is."""
        if status in (401, 403):
            return NotPermitted(f"{self.url} does not show {shown(what)} ({status}); set HF_TOKEN")
        if status == 404:
            return NoSuchVersion(f"{shown(what)} is not at {self.url}")
        if status == 429 or status >= 500 or not status:
            return Unreachable(f"{self.url} fails at {shown(what)} ({status})")
        return RegistryError(f"{self.url} refuses {shown(what)} ({status})")


def may_not_follow(url: str, hub: str) -> str:
    """Why a redirect is not followed; empty for the Hub itself, and for public hosts by https."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 443
    except ValueError:
        return "it is no URL"
    if parts.username is not None or parts.password is not None:
        return "it names a user"
    if (parts.scheme, parts.netloc) == urlsplit(hub)[:2]:
        return ""
    if parts.scheme != "https" or not host:
        return "only https is followed to another host"
    try:
        found = {item[4][0] for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return "there is no such host"
    return (
        "" if all(ipaddress.ip_address(one).is_global for one in found) else "it is not on the public network"
    )


def is_commit(text: str) -> bool:
    """Whether this is a commit's full name."""
    return is_sha256(text + "0" * 24) and len(text) == 40


def _transport_error() -> type[Exception]:
    """What the HTTP client raises upon which this huggingface_hub is built."""
    from huggingface_hub.errors import HfHubHTTPError

    base: type[Exception] = HfHubHTTPError.__bases__[0]
    return base


def _file(one: Any) -> RemoteFile:
    sha256 = str(one.lfs.sha256) if one.lfs is not None else ""
    return RemoteFile(int(one.size or 0), sha256 if is_sha256(sha256) else "")

"""The hub's files: what a repository holds at one commit, and one file after the other onto this disk.

Asks through huggingface_hub, so that its environment variables, tokens and mirrors hold here too. Which files
are wanted stands in allowed.py; nothing here reads weights.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from indexer.errors import ConfigError, ModelError
from retrieval.config import cache_dir
from retrieval.home import expanded
from retrieval.models.bundle import link_or_copy
from retrieval.models.families.allowed import Entry, Folder, card_licence, safe_name

MAIN = "main"  # the branch that a name without a revision means
PARTIAL = ".part"  # a file that is still being downloaded; the next run goes on where it ends
_CONVERTER = "SFconvertbot"  # proposes safetensors for repositories that have none, as pull requests
_READ_SIZE = 1 << 20
_TIMEOUT = 30.0  # seconds for a repository's list of files
_REACH_TIMEOUT = 8.0  # seconds for any answer at all
_NO_NETWORK = "check the network (HF_ENDPOINT may name a mirror, HTTPS_PROXY a proxy)"
_OFFLINE = "unset HF_HUB_OFFLINE"
Heard = Callable[[int], None]  # so many bytes more are there


class HubUnreachable(ModelError):
    """No network, or HF_HUB_OFFLINE, and the hub client's cache has not the repository."""


@dataclass(frozen=True, slots=True)
class Hub:
    """Where repositories are, and how they are asked for."""

    endpoint: str
    cache: Path  # of the hub client; read only
    offline: bool
    token: str | None
    down: str = ""  # why it cannot be reached, where that is known; then it is not asked again

    @classmethod
    def from_environment(cls, token: str | None = None) -> Self:
        """As HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE and HF_TOKEN say now, not at import."""
        from huggingface_hub import constants, get_token

        said = os.environ
        endpoint = said.get("HF_ENDPOINT") or constants.ENDPOINT
        home = expanded(said["HF_HOME"]) / "hub" if said.get("HF_HOME") else None
        offline = said.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}
        return cls(
            endpoint.rstrip("/"),
            expanded(said.get("HF_HUB_CACHE") or home or constants.HF_HUB_CACHE),
            offline or constants.is_offline_mode(),
            token or get_token(),
        )

    @property
    def host(self) -> str:
        """The endpoint as a person names it."""
        return self.endpoint.partition("://")[2] or self.endpoint

    @property
    def remedy(self) -> str:
        """What a user may do where it cannot be asked."""
        return _OFFLINE if self.offline else _NO_NETWORK

    def reached(self) -> Self:
        """The same hub, which knows whether it answers: asked once, in a few seconds at the most."""
        from huggingface_hub import get_session

        if self.offline:
            return self
        try:
            with _told(self.host, ""):
                get_session().head(self.endpoint, timeout=_REACH_TIMEOUT)
        except HubUnreachable as error:
            why = _first(error.__cause__ or error)
            return replace(self, down=f"the hub {self.host} cannot be reached: {why}")
        return self

    def open(self, repo: str, revision: str = "") -> Repository:
        """A repository at a revision's commit; one in the hub client's cache where the hub is out of reach.

        HubUnreachable where neither is; ModelError for a repository or revision that is not there, or that
        is not for everybody.
        """
        if not (self.offline or self.down):
            try:
                return self._ask(repo, revision or MAIN)
            except HubUnreachable:
                if found := self._cached(repo, revision or MAIN):
                    return found
                raise
        if found := self._cached(repo, revision or MAIN):
            return found
        if self.down:
            raise HubUnreachable(f"{self.down}, and {repo} is not on this machine", hint=self.remedy)
        raise HubUnreachable(f"{repo} is not on this machine, and HF_HUB_OFFLINE is set", hint=self.remedy)

    def may_hold(self) -> bool:
        """Whether the hub client has kept any model on this machine."""
        return any(self.cache.glob("models--*"))

    def _ask(self, repo: str, revision: str) -> Repository:
        from huggingface_hub import HfApi

        with _told(repo, revision):
            info = HfApi(endpoint=self.endpoint, token=self.token or False).model_info(
                repo, revision=revision, files_metadata=True, timeout=_TIMEOUT
            )
        files = {
            one.rfilename: Entry(one.size or 0, one.lfs.sha256 if one.lfs else "", one.blob_id or "")
            for one in info.siblings or ()
        }
        for name in files:
            safe_name(name, repo)
        card: Mapping[str, Any] = info.card_data.to_dict() if info.card_data else {}
        licence = str(card.get("license_name") or card.get("license") or "")
        if str(card.get("license", "")) not in ("", "other"):
            licence = str(card["license"])
        return Repository(self, repo, revision, str(info.sha), licence, files)

    def _cached(self, repo: str, revision: str) -> Repository | None:
        """What the hub client downloaded earlier, of its own accord or another program's."""
        storage = self.cache / f"models--{repo.replace('/', '--')}"
        ref = storage / "refs" / revision
        commit = ref.read_text().strip() if ref.is_file() else revision
        folder = storage / "snapshots" / commit
        if "/" in commit or not folder.is_dir():
            return None
        held = Folder(folder, storage)
        return Repository(self, repo, revision, commit, card_licence(folder), held.files, held)


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository's files at one commit; a Listing."""

    hub: Hub
    repo: str
    revision: str
    commit: str
    licence: str  # as its card has it; "": not said
    files: Mapping[str, Entry]
    held: Folder | None = None  # in the hub client's cache, where the hub cannot be asked

    @property
    def where(self) -> str:
        return self.repo if self.revision == MAIN else f"{self.repo}@{self.revision}"

    @property
    def folder(self) -> Path:
        """Where its files are kept until they are in a bundle."""
        return cache_dir() / "downloads" / self.repo.replace("/", "--") / self.commit

    def read(self, name: str) -> bytes:
        return self.bring(name).read_bytes()

    def missing(self, name: str) -> int:
        """Bytes of a file that are still to be downloaded."""
        path = self.folder / name
        if self.held or path.is_file():
            return 0
        partial = path.with_name(path.name + PARTIAL)
        return max(self.files[name].size - (partial.stat().st_size if partial.is_file() else 0), 0)

    def bring(self, name: str, heard: Heard | None = None) -> Path:
        """A file of it on this disk, downloaded where need be and compared with the hub's checksum.

        A download that was cut goes on where it ended. ModelError where what came is not what the hub has.
        """
        if self.held:
            return self.held.locate(name)
        path = self.folder / safe_name(name, self.repo)
        if path.is_file():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock():
            if not path.is_file() and not self._take_cached(name, path):
                self._make(name, path, heard or (lambda _count: None))
        return path

    def _lock(self) -> AbstractContextManager[Any]:
        """Held while a file arrives: a second process waits, and takes what the first one brought."""
        from filelock import FileLock

        return FileLock(self.folder.with_name(f"{self.commit}.lock"))

    def _make(self, name: str, path: Path, heard: Heard) -> None:
        partial = path.with_name(path.name + PARTIAL)
        went_on = partial.is_file() and partial.stat().st_size > 0
        self._download(name, partial, heard)
        wrong = self._wrong(name, partial)
        if wrong and went_on:  # what an earlier run left may have been of no use
            partial.unlink()
            self._download(name, partial, lambda _count: None)
            wrong = self._wrong(name, partial)
        if wrong:
            partial.unlink()
            raise ModelError(
                f"{name} of {self.where} came damaged: {wrong}",
                hint="try again; if it stays, the mirror in HF_ENDPOINT or a proxy changes files",
            )
        partial.replace(path)

    def _download(self, name: str, partial: Path, heard: Heard) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        size = self.files[name].size
        done = partial.stat().st_size if partial.is_file() else 0
        if size and done >= size:
            return
        url = hf_hub_url(self.repo, name, revision=self.commit, endpoint=self.hub.endpoint)
        with _told(self.repo, self.revision), partial.open("ab") as file:
            http_get(
                url,
                file,
                resume_size=done,
                headers=build_hf_headers(token=self.hub.token or False),
                expected_size=size or None,
                tqdm_class=_listener(heard),
            )

    def _take_cached(self, name: str, path: Path) -> bool:
        """Whether the hub client has the file already, and it is whole."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo, name, cache_dir=str(self.hub.cache), revision=self.commit)
        if not isinstance(found, str) or self._wrong(name, Path(found)):
            return False
        link_or_copy(Path(found), path)
        return True

    def _wrong(self, name: str, path: Path) -> str:
        """What differs from what the hub says of a file; "" where all is well."""
        entry = self.files[name]
        size = path.stat().st_size
        if entry.size and size != entry.size:
            return f"it has {size:,} bytes, not {entry.size:,}"
        if entry.sha256:
            return "" if _hash(path, hashlib.sha256()) == entry.sha256 else "its SHA-256 differs"
        if entry.blob:  # git's hash of a file outside large-file storage
            begun = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
            return "" if _hash(path, begun) == entry.blob else "its git hash differs"
        return ""

    def conversion(self) -> str:
        """The revision at which the hub's converter proposes safetensors, or "". Never fails."""
        from huggingface_hub import HfApi

        if self.held:
            return ""
        try:
            api = HfApi(endpoint=self.hub.endpoint, token=self.hub.token or False)
            found = list(api.get_repo_discussions(self.repo, author=_CONVERTER))
        except Exception:  # it only makes a hint better
            return ""
        numbers = [one.num for one in found if one.is_pull_request and one.status == "open"]
        return f"refs/pr/{max(numbers)}" if numbers else ""


def _hash(path: Path, begun: Any) -> str:
    with path.open("rb") as file:
        while block := file.read(_READ_SIZE):
            begun.update(block)
    return begun.hexdigest()


def _listener(heard: Heard) -> Any:
    """What the hub client takes for a progress bar: it hears of bytes, and shows nothing."""

    class Listener:
        def __init__(self, *_args: object, **_options: object) -> None: ...

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_error: object) -> None: ...

        def update(self, count: float = 1) -> None:
            heard(int(count))

        def close(self) -> None: ...

    return Listener


@contextmanager
def _told(repo: str, revision: str) -> Iterator[None]:
    """The hub client's errors as ours, each with what to do."""
    from huggingface_hub import errors

    unheard = getattr(errors, "HTTPError", OSError)  # of whichever HTTP library the client uses
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{repo} is for those only who have accepted its terms",
            hint=f"accept them at https://huggingface.co/{repo}, then set HF_TOKEN, or run: hf auth login",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"{repo} has no revision {revision!r}", hint="name a branch, a tag, a commit, or refs/pr/N"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"the hub has no model {repo}, or it is a private one",
            hint="check the name; for a private one set HF_TOKEN, or run: hf auth login",
        ) from error
    except errors.EntryNotFoundError as error:
        raise ModelError(f"a file of {repo} is no longer there: {_first(error)}", hint="try again") from error
    except errors.OfflineModeIsEnabled as error:
        raise HubUnreachable(
            f"{repo} is not on this machine, and HF_HUB_OFFLINE is set", hint=_OFFLINE
        ) from error
    except errors.HfHubHTTPError as error:
        raise _refused(repo, error) from error
    except errors.HFValidationError as error:
        raise ConfigError(f"{repo!r} is no name of a model: {_first(error)}") from error
    except (unheard, ConnectionError, TimeoutError) as error:
        raise HubUnreachable(
            f"the hub cannot be reached for {repo}: {_first(error)}", hint=_NO_NETWORK
        ) from error
    except OSError as error:
        raise ModelError(f"{repo} cannot be downloaded: {_first(error)}", hint="try again") from error


def _refused(repo: str, error: Any) -> ModelError:
    status = getattr(error.response, "status_code", 0)
    if status in (401, 403):
        return ModelError(
            f"the hub refuses {repo} to this user ({status})",
            hint="the token in HF_TOKEN may be wrong or too old: make another, or unset it",
        )
    if status >= 500 or status == 429:
        return ModelError(f"the hub is busy or out of order ({status}) for {repo}", hint="try again later")
    return ModelError(f"the hub answers {status} for {repo}: {_first(error)}")


def _first(error: BaseException) -> str:
    """An error's first line, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

"""The Hugging Face hub: what a repository holds at a commit, and one file of it, with a download that goes on.

Knows the hub's interface through huggingface_hub, which finds addresses and tokens. The bytes are fetched here, since
`hf_hub_download` begins a broken file anew from its second major release on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
from huggingface_hub import HfApi, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (  # type: ignore[attr-defined] # HTTPError: of whichever HTTP library the hub uses
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from worker.weights.errors import DownloadInterrupted, HubRefused

_TIMEOUT = httpx.Timeout(30.0)
_TRIES_WITHOUT_PROGRESS = 5
_PAUSE_S = 1.0

OnBytes = Callable[[int], None]
"""Bytes of the file that are on the disk."""


@dataclass(frozen=True)
class OfferedFile:
    name: str
    size: int
    sha256: str | None
    """None for small files, which the hub keeps without one."""


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit."""

    repository: str
    commit: str
    files: tuple[OfferedFile, ...]


class Hub:
    """The hub at `endpoint`, or at the one huggingface_hub is set up for."""

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        token: str | None = None,
        pause_s: float = _PAUSE_S,
        largest_http_bytes: int = 50 * 10**9,
    ) -> None:
        """`largest_http_bytes`: above this the hub serves no plain downloads, but only its own protocol."""
        self._endpoint = endpoint
        self._token = token
        self._pause_s = pause_s
        self._largest_http_bytes = largest_http_bytes

    def snapshot(self, repository: str, revision: str) -> Snapshot:
        """Raises `HubRefused`, `DownloadInterrupted`."""
        api = HfApi(endpoint=self._endpoint, token=self._token)
        try:
            info = api.model_info(repository, revision=revision, files_metadata=True, timeout=30)
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise HubRefused(f"{repository} at {revision}: not there, or not for this token") from error
        except HfHubHTTPError as error:
            raise HubRefused(f"{repository} at {revision}: {error}") from error
        except (HTTPError, OSError) as error:
            raise DownloadInterrupted(f"the hub does not answer about {repository}: {error}") from error
        if info.sha is None:
            raise HubRefused(f"{repository} at {revision}: the hub names no commit")
        files = tuple(
            OfferedFile(sibling.rfilename, sibling.size or 0, sibling.lfs.sha256 if sibling.lfs else None)
            for sibling in info.siblings or ()
        )
        return Snapshot(repository, info.sha, files)

    def fetch(self, snapshot: Snapshot, file: OfferedFile, target: Path, *, on_bytes: OnBytes) -> None:
        """Puts the file at `target`, going on with what an earlier try left beside it.

        Raises `DownloadInterrupted`, `HubRefused`.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.size > self._largest_http_bytes:
            self._fetch_whole(snapshot, file, target)
            return
        partial = partial_path(target, snapshot.commit)
        for stale in target.parent.glob(f"{target.name}.*.part"):
            if stale != partial:
                stale.unlink()
        partial.touch()
        failures = 0
        while (before := _size(partial)) < file.size:
            broken = self._append(snapshot, file, partial, on_bytes=on_bytes)
            failures = 0 if _size(partial) > before else failures + 1
            if failures == _TRIES_WITHOUT_PROGRESS:
                raise DownloadInterrupted(
                    f"{snapshot.repository}/{file.name} stopped at {before} of {file.size} bytes: {broken}"
                )
            time.sleep(self._pause_s * failures)
        partial.replace(target)

    def _append(self, snapshot: Snapshot, file: OfferedFile, partial: Path, *, on_bytes: OnBytes) -> str | None:
        """What one answer of the server gives of the rest of the file; why it broke off, if it did."""
        try:
            self._append_answer(snapshot, file, partial, on_bytes=on_bytes)
        except httpx.TransportError as error:
            return str(error)
        return None

    def _append_answer(self, snapshot: Snapshot, file: OfferedFile, partial: Path, *, on_bytes: OnBytes) -> None:
        url = hf_hub_url(snapshot.repository, file.name, revision=snapshot.commit, endpoint=self._endpoint)
        headers = build_hf_headers(token=self._token) | {"Accept-Encoding": "identity"}
        start = _size(partial)
        if start:
            headers["Range"] = f"bytes={start}-"
        with (
            httpx.Client(timeout=_TIMEOUT, follow_redirects=True) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            if response.status_code >= 500 or response.status_code == 429:
                raise httpx.RemoteProtocolError(f"status {response.status_code}")
            if response.status_code not in (200, 206):
                raise HubRefused(f"{snapshot.repository}/{file.name}: status {response.status_code}")
            going_on = response.status_code == 206
            with partial.open("ab" if going_on else "wb") as written:
                for piece in response.iter_raw():  # as it comes: what a larger piece waits for is lost with it
                    written.write(piece)
                    on_bytes(written.tell())
        if _size(partial) > file.size:
            partial.unlink()
            raise HubRefused(f"{snapshot.repository}/{file.name} is longer than the hub says")

    def _fetch_whole(self, snapshot: Snapshot, file: OfferedFile, target: Path) -> None:
        """By huggingface_hub, which speaks the protocol for huge files but does not go on with a broken one."""
        try:
            made = hf_hub_download(
                snapshot.repository,
                file.name,
                revision=snapshot.commit,
                local_dir=target.parent / f".{target.name}.hub",
                endpoint=self._endpoint,
                token=self._token,
            )
        except (HTTPError, OSError) as error:
            raise DownloadInterrupted(f"{snapshot.repository}/{file.name}: {error}") from error
        Path(made).replace(target)


def partial_path(target: Path, commit: str) -> Path:
    """Where an unfinished file is kept; another commit's is another file."""
    return target.with_name(f"{target.name}.{commit[:12]}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

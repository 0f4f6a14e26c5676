"""What can go wrong while weights are fetched, converted or checked."""

from __future__ import annotations

from pathlib import Path


class WeightsError(Exception):
    """Weights could not be fetched or kept. What is on the disk already stays and is used by the next try."""


class FilesNotOffered(WeightsError):
    """A repository has no longer the files that are wanted of it."""


class HubRefused(WeightsError):
    """The hub does not hand a repository or a file out: it is not there, or needs an accepted licence and a token."""


class DownloadInterrupted(WeightsError):
    """The connection broke again and again. The next pull goes on where this one stopped."""


class DamagedFile(WeightsError):
    """A finished file has not the hash that its publisher states. It was removed."""


class DiskTooSmall(WeightsError):
    """The files would not fit."""

    def __init__(self, directory: Path, *, needed: int, free: int) -> None:
        super().__init__(
            f"{needed / 1e9:.1f} GB are needed in {directory}, {free / 1e9:.1f} GB are free; nothing was written"
        )
        self.needed = needed
        self.free = free


class RevisionPinned(WeightsError):
    """The directory holds a repository at another commit than the one asked for."""


class DirectoryBusy(WeightsError):
    """Another process pulls into or converts the same directory."""


class ManifestUnreadable(WeightsError):
    """`manifest.json` is not one of ours."""


class ManifestMissing(WeightsError):
    """Nothing is known of the files of a directory."""

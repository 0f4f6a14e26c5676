"""What was measured of a finished video, as it is stored with its job."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class OutputWarning(BaseModel):
    """Something about a video that its customer may not expect of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    message: str


class OutputReport(BaseModel):
    """Measured on the muxed file, never computed from what was asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    duration_s: float
    frames: int
    fps: int
    width: int
    height: int
    size_bytes: int
    sha256: str
    video_codec: str
    audio_codec: str
    audio_duration_s: float
    av_difference_ms: float
    source_duration_s: float
    loudness_lufs: float | None  # None: too short or too quiet to measure
    source_loudness_lufs: float | None
    warnings: tuple[OutputWarning, ...] = ()

    def as_published(self) -> dict[str, Any]:
        """What clients are told of it, by the API and in webhooks, under the names that both have for it."""
        return {
            "duration": self.duration_s,
            "frames": self.frames,
            "fps": self.fps,
            "width": self.width,
            "height": self.height,
            "bytes": self.size_bytes,
            "sha256": self.sha256,
            "warnings": [warning.model_dump() for warning in self.warnings],
        }

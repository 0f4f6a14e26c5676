"""What was measured of a finished video, as it is stored with its job."""

from pydantic import BaseModel, ConfigDict


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

"""How large, how long and how slow a customer's file may be."""

from dataclasses import dataclass

from worker.media.ffmpeg import ProcessLimits


@dataclass(frozen=True)
class MediaLimits:
    min_duration_s: float = 0.1
    max_duration_s: float = 1800.0
    max_picture_side: int = 16_384
    max_picture_pixels: int = 64_000_000
    decode_wall_s: float = 600.0
    decode_cpu_s: int = 600

    @property
    def decode(self) -> ProcessLimits:
        return ProcessLimits(wall_s=self.decode_wall_s, cpu_s=self.decode_cpu_s)

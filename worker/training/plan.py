"""How long and on how much each phase of the training works.

Knows numbers only. A phase lasts for its minutes, whatever the machine makes of them, or for its steps where a plan
says so; so a run ends when it was told to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from worker.pipeline.config import AVATAR, PipelineConfig
from worker.training.faces import Frame


class Phase(StrEnum):
    """In their order."""

    SEEING = "seeing"
    """The VAE learns to keep drawn faces. Meanwhile other processes vary the speech for what comes after it."""
    HEARING = "hearing"
    """The audio encoder learns which sound is which."""
    TEACHER_FORCING = "teacher-forcing"
    """The DiT learns to make the next block after true ones."""
    SELF_FORCING = "self-forcing"
    """The DiT learns to make the next block after its own, in the two steps of inference."""


@dataclass(frozen=True)
class Share:
    """Of one phase: its time, and the steps at which it ends even if there is time left."""

    minutes: float
    most_steps: int
    rate: float
    """The highest learning rate."""
    batch: int = 0
    """Examples of a step, where the plan says no more of them."""


@dataclass(frozen=True)
class View:
    """What the VAE is shown for a while. Clips shorter than a convolution's memory alone do not do: it would never see
    what it does in the middle of a video. Nor do long ones alone: it learns colours from pictures, in far less time."""

    turns: int
    """Batches of each size of picture, before the next view."""
    parts: tuple[tuple[int, int], ...]
    """Frames and clips of batches that show parts of pictures; they take turns."""
    whole: tuple[int, int]
    """Frames and clips of batches that show whole pictures."""


@dataclass(frozen=True)
class Plan:
    """One training."""

    config: PipelineConfig
    frames: tuple[Frame, ...]
    """Sizes of picture, which take turns."""
    shares: dict[Phase, Share]
    seeing_clips: int
    """Of each size, all of different people, that are drawn for the VAE."""
    seeing_frames: int
    """Of each of them, 4 k + 1."""
    seeing_views: tuple[View, ...]
    """One after the other; the last one stays."""
    seeing_crop: int
    """Side in pixels of these parts."""
    hearing_pieces: int
    """Pieces of speech, varied, for the audio encoder."""
    hearing_s: float
    """Their length in seconds."""
    statistics_batches: int
    """From which the latents' means and deviations are read."""
    pool_clips: int
    """Videos of each size that are drawn and encoded for the DiT."""
    pool_blocks: int
    """Blocks of each of them."""
    forced_blocks: int
    """Blocks of one example of the DiT's phases."""
    save_every_s: float = 90.0

    @property
    def minutes(self) -> float:
        """Of all phases together."""
        return sum(share.minutes for share in self.shares.values())

    def lasting(self, minutes: float) -> Plan:
        """The same in another time in all."""
        times = minutes / self.minutes
        return replace(
            self, shares={p: replace(share, minutes=share.minutes * times) for p, share in self.shares.items()}
        )


_NO_END = 1_000_000

FULL = Plan(
    config=AVATAR,
    frames=(Frame(192, 192), Frame(144, 192)),
    shares={
        Phase.SEEING: Share(6.0, _NO_END, rate=1e-3),
        Phase.HEARING: Share(3.7, _NO_END, rate=1e-3, batch=64),
        Phase.TEACHER_FORCING: Share(6.0, _NO_END, rate=1e-3, batch=16),
        Phase.SELF_FORCING: Share(5.0, _NO_END, rate=3e-4, batch=16),
    },
    seeing_clips=1500,
    seeing_frames=49,
    seeing_views=(
        View(3000, parts=((1, 64),), whole=(1, 8)),
        View(_NO_END, parts=((5, 32), (17, 10), (5, 32), (17, 10), (49, 4)), whole=(9, 4)),
    ),
    seeing_crop=64,
    hearing_pieces=80_000,
    hearing_s=3.0,
    statistics_batches=24,
    pool_clips=1000,
    pool_blocks=14,
    forced_blocks=6,
)
"""For one H200: 20.7 minutes, and a little more than two for what lies between."""

TINY = Plan(
    config=AVATAR,
    frames=(Frame(64, 64), Frame(48, 64)),
    shares={
        Phase.SEEING: Share(1.0, 3, rate=1e-3),
        Phase.HEARING: Share(1.0, 3, rate=1e-3, batch=2),
        Phase.TEACHER_FORCING: Share(1.0, 3, rate=1e-3, batch=2),
        Phase.SELF_FORCING: Share(1.0, 2, rate=3e-4, batch=2),
    },
    seeing_clips=4,
    seeing_frames=9,
    seeing_views=(
        View(1, parts=((1, 1),), whole=(1, 1)),
        View(_NO_END, parts=((5, 1),), whole=(9, 1)),
    ),
    seeing_crop=48,
    hearing_pieces=4,
    hearing_s=1.0,
    statistics_batches=3,
    pool_clips=2,
    pool_blocks=4,
    forced_blocks=2,
)
"""Goes through everything once on a processor, within a minute. What comes out makes noise."""

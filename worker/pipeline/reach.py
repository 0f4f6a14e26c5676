"""How far back a network looks: what has to be repeated before a render can go on in the middle.

Knows sizes only. Both networks keep something from call to call, the DiT the keys of the last blocks, the decoder the
last frames of its convolutions. None of it depends on anything further back than this, so repeating that much brings it
to exactly where it was, from whatever state.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil

from worker.pipeline.config import DiTConfig, PipelineConfig, VAEConfig

_KEPT_FRAMES = 2
"""Of the past, by a causal convolution over three frames."""
_CONVOLUTIONS = 2
"""Of a residual block."""


def replayed_blocks(config: DiTConfig, block: int) -> range:
    """The blocks whose context pass has to be repeated before `block` is made.

    Keys of the first layer come from a block's own latents, those of every other layer also from what the layer below
    it saw of the blocks in the ring. So each layer looks one ring further back.
    """
    reach = config.num_layers * (config.ring_blocks - 1)
    return range(max(0, block - reach), block)


def latent_frames_seen(config: VAEConfig) -> int:
    """Latent frames before another that its pixel frames depend on: 38 for the released sizes.

    The sum over all causal convolutions in time, each at the frame rate at which it works.
    """
    middle = 2 * _CONVOLUTIONS * _KEPT_FRAMES
    seen = Fraction(_KEPT_FRAMES + middle)
    rate = 1
    for doubles_time in (*reversed(config.temporal_downsample), False):
        at_this_rate = (config.num_res_blocks + 1) * _CONVOLUTIONS * _KEPT_FRAMES
        if doubles_time:
            at_this_rate += _KEPT_FRAMES
        seen += ceil(Fraction(at_this_rate, rate))
        if doubles_time:
            rate *= 2
    return ceil(seen + Fraction(_KEPT_FRAMES, rate))


def blocks_needed(config: PipelineConfig) -> int:
    """Blocks of latents that have to be kept, at most, for a render to go on after them."""
    dit = len(replayed_blocks(config.dit, 10**6))
    return max(dit, ceil(latent_frames_seen(config.vae) / config.dit.num_frame_per_block))

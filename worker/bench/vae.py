"""Times decoding alone: the blocks of a running stream, with the floor read before and after.

Knows how the VAE is driven; no DiT and no files. Frames end in host memory.
"""

from __future__ import annotations

import time
from collections import Counter

import torch

from worker.bench import place as here
from worker.bench.ceilings import Ceiling, Pace, read_ceilings
from worker.bench.jobs import RowsJob
from worker.bench.ranks import Place, Say
from worker.bench.stand_ins import SEED, weights_from
from worker.bench.stopwatch import stopwatch, wait_for
from worker.bench.stretch import UNTIMED_BLOCKS, Found, Stretch
from worker.bench.vae_work import Convolution, decoder_convolutions, vae_floor, vae_probes
from worker.pipeline.compute import Compute
from worker.pipeline.config import PIXELS_PER_LATENT, preset
from worker.pipeline.vae import VideoAutoencoder

GPU_PIECE_S = 0.1
"""There are many kinds of convolutions, and few of them matter."""


def measure(job: RowsJob, place: Place, say: Say) -> Found:
    """Raises `CannotMeasure`."""
    with here.taken(place) as device:
        return _measure(job, place, device, say)


def _measure(job: RowsJob, place: Place, device: torch.device, say: Say) -> Found:
    config = preset(job.preset)
    compute = Compute.on(device, memory=job.memory)
    memory = here.PeakMemory(device)
    say(f"loading the VAE on {place.device}")
    autoencoder = VideoAutoencoder(
        config.vae,
        device=device,
        dtype=compute.dtype,
        weights=weights_from(job.weights),
        memory=job.memory,
        graph_pool=compute.graph_pool,
    )
    convolutions = decoder_convolutions(
        config.vae, height=job.height, width=job.width, latent_frames=config.dit.num_frame_per_block
    )
    with memory.left_out():
        before = read_vae_ceilings(convolutions, compute=compute)
    say(f"VAE: {UNTIMED_BLOCKS} blocks to warm up, {job.blocks} that count")
    cells = (job.height // PIXELS_PER_LATENT, job.width // PIXELS_PER_LATENT)
    gaps_ms, began_at, ended_at = _blocks(
        autoencoder, (config.vae.z_dim, config.dit.num_frame_per_block, *cells), job.blocks, device
    )
    peak_gib = memory.gib()
    with memory.left_out():
        after = read_vae_ceilings(convolutions, compute=compute)
    stretch = Stretch(
        steps=None,
        gaps_ms=gaps_ms,
        began_at=began_at,
        ended_at=ended_at,
        floor=vae_floor(convolutions, [before, after]),
        peak_gib=peak_gib,
    )
    say(f"VAE: {stretch.block_ms.median:.1f} ms per block")
    return Found(versions=here.versions(device), gpu=here.gpu_uuid(device), stretches=(stretch,))


def read_vae_ceilings(convolutions: Counter[Convolution], *, compute: Compute) -> tuple[Ceiling, ...]:
    """How fast this device does the decoder's convolutions alone, by the fastest algorithm that cuDNN has."""
    pace = Pace.on(compute.device)
    if compute.device.type == "cuda":
        pace = Pace(warm_s=pace.warm_s, piece_s=GPU_PIECE_S)
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, benchmark=True):
        return read_ceilings(
            vae_probes(convolutions, device=compute.device, dtype=compute.dtype), device=compute.device, pace=pace
        )


def _blocks(
    autoencoder: VideoAutoencoder, shape: tuple[int, ...], blocks: int, device: torch.device
) -> tuple[tuple[float, ...], float, float]:
    """Milliseconds of all blocks, and when those that count began and ended.

    A block is begun while the frames of the one before are on their way, as in a render.
    """
    random = torch.Generator().manual_seed(SEED)
    latents = torch.randn(shape, generator=random).to(device)
    stream = autoencoder.decode_stream()
    watch = stopwatch(device)
    watch.mark()
    on_their_way = stream.begin(latents)
    watch.mark()
    for block in range(1, UNTIMED_BLOCKS + blocks):
        if block == UNTIMED_BLOCKS:
            wait_for(device)
            began_at = time.time()
        following = stream.begin(latents)
        watch.mark()
        on_their_way.wait()
        on_their_way = following
    frames = on_their_way.wait()
    wait_for(device)
    ended_at = time.time()
    if not frames.std() > 0:
        raise ArithmeticError("the last frames are of one colour")
    return tuple(watch.gaps_ms()), began_at, ended_at

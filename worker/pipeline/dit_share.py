"""A DiT rank's part of a render: its strip of every block (specification, sections 7 and 15).

Knows how the network is loaded, which buffers a picture size needs, and where its strip lies. Noise is drawn for the
whole picture and cut, so the video does not depend on the number of ranks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from worker.pipeline.checkpoint import Network, WeightSource
from worker.pipeline.compute import Compute
from worker.pipeline.config import PIXELS_PER_LATENT, DiTConfig
from worker.pipeline.denoiser import Denoiser, Times, read_times
from worker.pipeline.dit.dit import DiT
from worker.pipeline.dit.kernel_choice import choose_kernels
from worker.pipeline.dit.kernels import exact_dtype
from worker.pipeline.dit.recording import DirectPlayer, GraphPlayer
from worker.pipeline.exchange import Beginning
from worker.pipeline.noise import block_noise
from worker.pipeline.noise_ahead import NoiseAhead
from worker.pipeline.parallel import RankLayout, SequenceParallel, Strip, cut
from worker.pipeline.precision import MemoryUse
from worker.pipeline.schedule import STEP_LISTS, DenoisingStep, denoising_steps
from worker.pipeline.settings import RenderSettings

SIZES_KEPT = 3
ROOM_FOR_A_SIZE = 16 * 2**30
"""Bytes that have to be free: the cache of a large picture (10 GiB at 1024 x 704), its recordings, and some air."""


class DiTShare:
    """The network and, for the sizes rendered last, its buffers."""

    def __init__(self, dit: DiT, *, sequence: SequenceParallel, dit_rank: int, compute: Compute) -> None:
        self._dit = dit
        self._sequence = sequence
        self._dit_rank = dit_rank
        self._compute = compute
        self._times: Times = read_times(dit, [step for count in STEP_LISTS for step in denoising_steps(count)])
        dit.forget_times()
        self._denoisers: OrderedDict[object, Denoiser] = OrderedDict()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="noise")

    @classmethod
    def load(
        cls,
        config: DiTConfig,
        *,
        sequence: SequenceParallel,
        layout: RankLayout,
        compute: Compute,
        weights: WeightSource,
    ) -> DiTShare:
        """Raises `CheckpointError` and `UnusablePrecision`.

        The audio encoder runs in at least float32, as in the released code.
        """
        kernels = choose_kernels(compute)
        with torch.device("meta"):
            dit = DiT(config, kernels)
        weights.fill(dit, Network.DIT, device=compute.device, dtype=compute.dtype, place=kernels.place)
        kernels.pack(dit)
        dit.casual_audio_encoder.to(exact_dtype(compute.dtype))
        return cls(dit.eval(), sequence=sequence, dit_rank=layout.dit_rank, compute=compute)

    def begin(self, settings: RenderSettings, beginning: Beginning) -> Session:
        """Prefill with the reference picture and the prompt. Raises `ImpossibleLayout`."""
        strips = cut(self._dit.config, height=settings.height, width=settings.width, parts=self._sequence.size)
        strip = strips[self._dit_rank]
        denoiser = self._denoiser_for(settings, strips)
        denoiser.start(
            strip.of(beginning.reference),
            prompt=beginning.prompt,
            prompt_rows=beginning.prompt_rows,
        )
        return Session(
            denoiser,
            strip=strip,
            steps=denoising_steps(settings.denoising_steps),
            seed=settings.seed,
            noise_shape=(
                self._dit.config.in_dim,
                self._dit.config.num_frame_per_block,
                settings.height // PIXELS_PER_LATENT,
                settings.width // PIXELS_PER_LATENT,
            ),
            device=self._device,
            thread=self._thread,
        )

    def _denoiser_for(self, settings: RenderSettings, strips: Sequence[Strip]) -> Denoiser:
        wanted = (tuple(strips), settings.sink_rotation)
        if wanted not in self._denoisers:
            while self._denoisers and not self._has_room():
                self._denoisers.popitem(last=False)  # the old buffers go before the new ones come
            pool = self._compute.graph_pool
            self._denoisers[wanted] = Denoiser(
                self._dit,
                times=self._times,
                strips=strips,
                strip=strips[self._dit_rank],
                sequence=self._sequence,
                rotation=settings.sink_rotation,
                player=DirectPlayer() if pool is None else GraphPlayer(pool),
            )
        self._denoisers.move_to_end(wanted)
        return self._denoisers[wanted]

    def _has_room(self) -> bool:
        """Whether buffers of one more size may be kept."""
        if self._compute.memory is MemoryUse.LOW or self._device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self._device)
        return len(self._denoisers) < SIZES_KEPT and free > ROOM_FOR_A_SIZE

    @property
    def _device(self) -> torch.device:
        return self._compute.device


class Session:
    """One render on the DiT. Blocks are replayed, if any, and then made in order."""

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        strip: Strip,
        steps: Sequence[DenoisingStep],
        seed: int,
        noise_shape: tuple[int, ...],
        device: torch.device,
        thread: ThreadPoolExecutor,
    ) -> None:
        """`thread` draws noise ahead."""
        self._denoiser = denoiser
        self._strip = strip
        self._steps = steps
        self._seed = seed
        self._noise_shape = noise_shape
        self._device = device
        self._noise = NoiseAhead(self._draw, thread=thread)

    def make(self, block: int, *, window: Tensor) -> Tensor:
        """This rank's strip of the block's latents, [c, f, h, w]. On a GPU it returns before they are there."""
        return self._denoiser.denoise(block, window=window, noise=self._noise, steps=self._steps)

    def replay(self, block: int, *, window: Tensor, latents: Tensor) -> None:
        """Bring the cache to where it was after a block made earlier, from its latents of the whole picture."""
        self._denoiser.replay(block, window=window, latents=self._strip.of(latents))

    def flow(self, block: int, *, window: Tensor, latents: Tensor, step: DenoisingStep) -> Tensor:
        """One forward by itself, for comparisons: this rank's strip of the flow, from latents of the whole picture."""
        return self._denoiser.flow(block, window=window, latents=self._strip.of(latents), step=step)

    def _draw(self, block: int, step: int) -> Tensor:
        """On the host; for a GPU in memory that it copies from by itself."""
        whole = block_noise(self._seed, block=block, step=step, shape=self._noise_shape)
        mine = self._strip.of(whole)
        return mine.contiguous().pin_memory() if self._device.type == "cuda" else mine

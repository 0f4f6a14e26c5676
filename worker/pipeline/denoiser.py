"""Turns noise into blocks of latents, one after the other (specification, sections 6, 7 and 14).

Knows the order of forwards within a block and what must stay from block to block: the attention cache, the positions,
the text keys. It holds this rank's strip of the picture and reads the same on one rank or many. It does not know where
noise, audio and reference come from, nor where the latents go.

Shapes: c latent channels, f latent frames of a block, h x w the strip in latent cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from worker.pipeline.dit.attention import Call
from worker.pipeline.dit.audio_net import rows_for
from worker.pipeline.dit.dit import Conditions, DiT, TimeCondition
from worker.pipeline.dit.kernels import CrossKeys, exact_dtype
from worker.pipeline.dit.kv_cache import KVCache, Slots
from worker.pipeline.dit.recording import DirectPlayer, Player
from worker.pipeline.dit.rope import Rope, Turn
from worker.pipeline.parallel import SequenceParallel, Strip
from worker.pipeline.schedule import CLEAN, STEP_LISTS, DenoisingStep, renoise
from worker.pipeline.sink_rotation import SinkRotation

NoiseSource = Callable[[int, int], Tensor]
"""(block, step) to this strip's noise [c, f, h, w]; step 0 is the initial noise, step i the noise before forward i."""

Times = Mapping[float, TimeCondition]
"""The conditions of every timestep used, `CLEAN` included."""


class Denoiser:
    """The DiT at work on one picture size. Buffers are allocated here once and serve one session after the other."""

    def __init__(
        self,
        dit: DiT,
        *,
        times: Times,
        strips: Sequence[Strip],
        sequence: SequenceParallel,
        strip: Strip,
        rotation: SinkRotation = SinkRotation.EXACT,
        player: Player | None = None,
    ) -> None:
        """`strips` are those of all DiT ranks, `strip` is this rank's; `player` is for this size alone."""
        config, device = dit.config, dit.patch_embedding.weight.device
        grid = strip.grid(config)
        exact = exact_dtype(dit.dtype)
        self._dit = dit
        self._times = times
        self._sequence = sequence
        self._rope = Rope(config, grid, device=device, dtype=exact)
        self.cache = KVCache(
            config,
            tokens_per_frame=len(strips) * grid.tokens_per_frame,
            heads=config.num_heads // sequence.size,
            rotation=rotation,
            device=device,
            dtype=dit.kernels.cache_dtype or dit.dtype,
        )
        self._prompt: Tensor | None = None
        self._text: tuple[CrossKeys, ...] = ()
        # what a recorded block reads and writes
        self._player = player or DirectPlayer()
        window = (config.audio_layers, config.audio_dim, rows_for(config.num_frame_per_block))
        picture = (strip.height, strip.width)
        self._window = torch.zeros(window, device=device, dtype=exact)
        self._noise = torch.zeros(
            max(STEP_LISTS), config.in_dim, config.num_frame_per_block, *picture, device=device, dtype=exact
        )
        self._latents = torch.zeros_like(self._noise[0], dtype=dit.dtype)
        self._reference = torch.zeros(config.in_dim, config.sink_frames, *picture, device=device, dtype=dit.dtype)

    def start(self, reference: Tensor, *, prompt: Tensor, prompt_rows: int) -> None:
        """Begin a session: keys of the reference frame [c, 1, h, w] under a prompt; blocks count from 0 again."""
        self.change_prompt(prompt, prompt_rows=prompt_rows)
        self.cache.restart()
        self._reference.copy_(reference, non_blocking=True)
        self._player.play("reference", self._write_reference)

    def change_prompt(self, prompt: Tensor, *, prompt_rows: int) -> None:
        """The prompt [text_len, text_dim] from the next block on. The keys already in the cache stay (quirk 15)."""
        if self._prompt is not None and _is_same(self._prompt, prompt):
            return
        self._prompt = prompt
        text = self._dit.read_text(prompt.to(self._latents), prompt_rows=prompt_rows)
        if len(self._text) == len(text) and all(kept.fits(new) for kept, new in zip(self._text, text, strict=True)):
            for kept, new in zip(self._text, text, strict=True):
                kept.copy_(new)
        else:
            self._text = text
            self._player.forget()  # what is recorded reads the old ones

    def denoise(self, block: int, *, window: Tensor, noise: NoiseSource, steps: Sequence[DenoisingStep]) -> Tensor:
        """Make one block: its clean latents [c, f, h, w]. Blocks are to be made in order from 0.

        `window` holds the rows of sound that the block hears, [states, width, 4 f + 5]. On a GPU this returns before
        the latents are there.
        """
        call = self._place(block, window)
        for step in steps:
            self._noise[step.index].copy_(noise(block, step.index), non_blocking=True)
        # the ring repeats, so these few are all there are
        key = (len(steps), call.slots.write.start, call.slots.read.stop)
        self._player.play(key, lambda: self._make(call, steps))
        return self._latents.clone()

    def replay(self, block: int, *, window: Tensor, latents: Tensor) -> None:
        """Bring the cache to where it was after `block`, from latents made earlier: one pass instead of a whole block.

        To resume at block n, start the session and replay the blocks of `reach.replayed_blocks` in order.
        """
        call = self._place(block, window)
        self._latents.copy_(latents)
        self._write_context(self._conditions(), call)

    def flow(self, block: int, *, window: Tensor, latents: Tensor, step: DenoisingStep) -> Tensor:
        """One forward of a block by itself: the flow of noisy latents [c, f, h, w]. Writes the block's keys on the way.

        For comparisons: the same kernels as in `denoise`, but never recorded.
        """
        call = self._place(block, window)
        noisy = latents.to(self._latents)
        return self._dit.flow(noisy, conditions=self._conditions(), time=self._times[step.timestep], call=call)

    def _place(self, block: int, window: Tensor) -> Call:
        """Bring everything that differs from block to block to where the work of a block reads it."""
        self.cache.turn_sink(block, rope=self._rope, kernels=self._dit.kernels)
        self._window.copy_(window, non_blocking=True)
        return self._call(self.cache.block_slots(block), self._rope.block(block))

    def _make(self, call: Call, steps: Sequence[DenoisingStep]) -> None:
        conditions = self._conditions()
        latents = self._noise[0].to(self._dit.dtype)
        for step in steps:
            flow = self._dit.flow(latents, conditions=conditions, time=self._times[step.timestep], call=call)
            clean = step.clean(latents, flow)
            if step.next_sigma is not None:
                latents = renoise(clean, self._noise[step.index + 1], sigma=step.next_sigma).to(self._dit.dtype)
        self._latents.copy_(clean)
        self._write_context(conditions, call)

    def _write_context(self, conditions: Conditions, call: Call) -> None:
        self._dit.write_context(self._latents, conditions=conditions, time=self._times[CLEAN], call=call)

    def _write_reference(self) -> None:
        call = self._call(self.cache.reference_slots(), self._rope.reference())
        self._dit.write_reference(self._reference, text=self._text, time=self._times[CLEAN], call=call)
        self.cache.keep_reference()

    def _call(self, slots: Slots, turn: Turn) -> Call:
        return Call(slots=slots, turn=turn, cache=self.cache, sequence=self._sequence)

    def _conditions(self) -> Conditions:
        return Conditions(text=self._text, audio=self._dit.read_audio(self._window))


def _is_same(prompt: Tensor, other: Tensor) -> bool:
    """Numbers are compared where that waits for nothing."""
    return prompt is other or (prompt.is_cpu and other.is_cpu and torch.equal(prompt, other))


def read_times(dit: DiT, steps: Sequence[DenoisingStep]) -> Times:
    """The conditions of all timesteps of a render."""
    return dit.read_times([CLEAN, *(step.timestep for step in steps)])


def whole_picture(height: int, width: int) -> tuple[Strip, ...]:
    """The single strip of a latent picture that is not cut."""
    return (Strip(top=0, left=0, height=height, width=width),)

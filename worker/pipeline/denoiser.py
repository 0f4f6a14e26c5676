"""Turns noise into blocks of latents, one after the other (specification, sections 6, 7 and 14).

Knows the order of forwards within a block and what must stay from block to block: the attention cache, the positions,
the text keys. It holds this rank's strip of the picture and reads the same on one rank or many. It does not know where
noise, audio and reference come from, nor where the latents go.

Shapes: c latent channels, f latent frames of a block, h x w the strip in latent cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from worker.pipeline.dit.attention import Call
from worker.pipeline.dit.dit import Conditions, DiT, TimeCondition
from worker.pipeline.dit.kernels import CrossKeys, exact_dtype
from worker.pipeline.dit.kv_cache import KVCache, Slots
from worker.pipeline.dit.rope import Rope, Turn
from worker.pipeline.parallel import SequenceParallel, Strip
from worker.pipeline.schedule import CLEAN, DenoisingStep, renoise
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
    ) -> None:
        """`strips` are those of all DiT ranks, `strip` is this rank's."""
        config, device = dit.config, dit.patch_embedding.weight.device
        grid = strip.grid(config)
        self._dit = dit
        self._times = times
        self._sequence = sequence
        self._rope = Rope(config, grid, device=device, dtype=exact_dtype(dit.dtype))
        self.cache = KVCache(
            config,
            tokens_per_frame=len(strips) * grid.tokens_per_frame,
            heads=config.num_heads // sequence.size,
            rotation=rotation,
            device=device,
            dtype=dit.dtype,
        )
        self._text: tuple[CrossKeys, ...] = ()

    def start(self, reference: Tensor, *, prompt: Tensor, prompt_rows: int) -> None:
        """Begin a session: keys of the reference frame [c, 1, h, w] under a prompt; blocks count from 0 again."""
        self.change_prompt(prompt, prompt_rows=prompt_rows)
        call = self._call(self.cache.reference_slots(), self._rope.reference())
        self._dit.write_reference(reference, text=self._text, time=self._times[CLEAN], call=call)
        self.cache.keep_reference()

    def change_prompt(self, prompt: Tensor, *, prompt_rows: int) -> None:
        """The prompt [text_len, text_dim] from the next block on. The keys already in the cache stay (quirk 15)."""
        self._text = self._dit.read_text(prompt, prompt_rows=prompt_rows)

    def denoise(self, block: int, *, window: Tensor, noise: NoiseSource, steps: Sequence[DenoisingStep]) -> Tensor:
        """Make one block: its clean latents [c, f, h, w]. Blocks are to be made in order from 0.

        `window` holds the rows of sound that the block hears, [states, width, 4 f + 5].
        """
        conditions, call = self._begin(block, window)
        latents = noise(block, 0).to(self._dit.dtype)
        for step in steps:
            flow = self._dit.flow(latents, conditions=conditions, time=self._times[step.timestep], call=call)
            clean = step.clean(latents, flow)
            if step.next_sigma is not None:
                fresh = noise(block, step.index + 1)
                latents = renoise(clean, fresh, sigma=step.next_sigma).to(self._dit.dtype)
        latents = clean.to(self._dit.dtype)
        self._dit.write_context(latents, conditions=conditions, time=self._times[CLEAN], call=call)
        return latents

    def replay(self, block: int, *, window: Tensor, latents: Tensor) -> None:
        """Bring the cache to where it was after `block`, from latents made earlier: one pass instead of a whole block.

        To resume at block n, start the session and replay the blocks 0 .. n - 1 in order.
        """
        conditions, call = self._begin(block, window)
        self._dit.write_context(latents, conditions=conditions, time=self._times[CLEAN], call=call)

    def _begin(self, block: int, window: Tensor) -> tuple[Conditions, Call]:
        self.cache.turn_sink(block, rope=self._rope, kernels=self._dit.kernels)
        conditions = Conditions(text=self._text, audio=self._dit.read_audio(window))
        return conditions, self._call(self.cache.block_slots(block), self._rope.block(block))

    def _call(self, slots: Slots, turn: Turn) -> Call:
        return Call(slots=slots, turn=turn, cache=self.cache, sequence=self._sequence)


def read_times(dit: DiT, steps: Sequence[DenoisingStep]) -> Times:
    """The conditions of all timesteps of a render."""
    return dit.read_times([CLEAN, *(step.timestep for step in steps)])


def whole_picture(height: int, width: int) -> tuple[Strip, ...]:
    """The single strip of a latent picture that is not cut."""
    return (Strip(top=0, left=0, height=height, width=width),)

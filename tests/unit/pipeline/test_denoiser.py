"""Blocks of latents: the same with all shortcuts as without any, and the same after a restart or a resumption."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.unit.pipeline.plain_network import PlainSession
from worker.pipeline.checkpoint import Network, RandomWeights
from worker.pipeline.conditioning import audio_windows
from worker.pipeline.config import DiTConfig
from worker.pipeline.denoiser import Denoiser, read_times, whole_picture
from worker.pipeline.dit.dit import DiT
from worker.pipeline.noise import block_noise
from worker.pipeline.parallel import SequenceParallel
from worker.pipeline.schedule import denoising_steps

CONFIG = DiTConfig(
    dim=32,
    ffn_dim=48,
    num_heads=2,
    num_layers=3,
    text_dim=12,
    text_len=10,
    audio_dim=8,
    audio_layers=3,
    audio_inject_layers=(0, 2),
    freq_dim=16,
)
SIZE = (4, 6)
BLOCKS = 13
"""The sink turns from the eleventh on."""

PROMPT_ROWS = 4


class Inputs:
    """Everything a session needs, drawn once."""

    def __init__(self, dtype: torch.dtype) -> None:
        drawn = torch.Generator().manual_seed(1)
        self.dtype = dtype
        self.reference = torch.randn(CONFIG.in_dim, 1, *SIZE, generator=drawn).to(dtype)
        self.prompt = torch.randn(CONFIG.text_len, CONFIG.text_dim, generator=drawn).to(dtype)
        self.prompt[PROMPT_ROWS:] = 0
        self.sound = torch.randn(CONFIG.audio_layers, CONFIG.audio_dim, 8 * BLOCKS, generator=drawn).to(dtype)

    def noise(self, block: int, step: int) -> Tensor:
        return block_noise(2, block=block, step=step, shape=(CONFIG.in_dim, 2, *SIZE)).to(self.dtype)

    def windows(self) -> list[Tensor]:
        windows = audio_windows([self.sound], CONFIG, lead=0)
        return [next(windows) for _ in range(BLOCKS)]

    def start(self, denoiser: Denoiser) -> None:
        denoiser.start(self.reference, prompt=self.prompt, prompt_rows=PROMPT_ROWS)


def network(dtype: torch.dtype, config: DiTConfig = CONFIG) -> DiT:
    with torch.device("meta"):
        dit = DiT(config)
    RandomWeights(4).fill(dit, Network.DIT, device=torch.device("cpu"), dtype=dtype)
    return dit


def denoiser_of(dit: DiT) -> Denoiser:
    strips = whole_picture(*SIZE)
    times = read_times(dit, [*denoising_steps(2), *denoising_steps(4)])
    return Denoiser(dit, times=times, strips=strips, strip=strips[0], sequence=SequenceParallel(size=1, group=None))


def all_blocks(denoiser: Denoiser, inputs: Inputs, steps: int = 2) -> list[Tensor]:
    inputs.start(denoiser)
    return [
        denoiser.denoise(block, window=window, noise=inputs.noise, steps=denoising_steps(steps))
        for block, window in enumerate(inputs.windows())
    ]


@pytest.mark.parametrize("steps", [2, 4])
def test_all_shortcuts_together_change_nothing(steps: int) -> None:
    inputs = Inputs(torch.float64)
    dit = network(torch.float64)
    plain = PlainSession(CONFIG, dict(dit.state_dict()), inputs.prompt, inputs.sound, SIZE)
    plain.prefill(inputs.reference)
    timesteps = [step.timestep for step in denoising_steps(steps)]
    for block, made in enumerate(all_blocks(denoiser_of(dit), inputs, steps)):
        noises = [inputs.noise(block, step) for step in range(steps)]
        wanted = plain.block(block, noises, timesteps, pointer=2 * block)
        torch.testing.assert_close(made, wanted, rtol=0, atol=1e-12)


def test_a_prompt_that_fills_all_rows_has_no_padding_key() -> None:
    inputs = Inputs(torch.float64)
    inputs.prompt = torch.randn_like(inputs.prompt)
    dit = network(torch.float64)
    plain = PlainSession(CONFIG, dict(dit.state_dict()), inputs.prompt, inputs.sound, SIZE)
    plain.prefill(inputs.reference)
    denoiser = denoiser_of(dit)
    denoiser.start(inputs.reference, prompt=inputs.prompt, prompt_rows=CONFIG.text_len)
    made = denoiser.denoise(0, window=inputs.windows()[0], noise=inputs.noise, steps=denoising_steps(2))
    wanted = plain.block(0, [inputs.noise(0, 0), inputs.noise(0, 1)], [1000.0, 750.0], pointer=0)
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-12)


def test_a_second_session_on_the_same_buffers_is_like_a_first() -> None:
    inputs = Inputs(torch.float32)
    denoiser = denoiser_of(network(torch.float32))
    first, second = all_blocks(denoiser, inputs), all_blocks(denoiser, inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_blocks_replayed_from_their_latents_lead_to_the_same_next_block() -> None:
    inputs, dit = Inputs(torch.float32), network(torch.float32)
    whole = all_blocks(denoiser_of(dit), inputs)
    resumed = denoiser_of(dit)
    inputs.start(resumed)
    windows = inputs.windows()
    for block in range(BLOCKS - 1):
        resumed.replay(block, window=windows[block], latents=whole[block])
    last = resumed.denoise(BLOCKS - 1, window=windows[-1], noise=inputs.noise, steps=denoising_steps(2))
    assert torch.equal(last, whole[-1])


def test_a_new_prompt_changes_the_blocks_after_it() -> None:
    inputs = Inputs(torch.float32)
    denoiser = denoiser_of(network(torch.float32))
    whole = all_blocks(denoiser, inputs)
    inputs.start(denoiser)
    windows = inputs.windows()
    for block in range(3):
        if block == 2:
            denoiser.change_prompt(inputs.prompt.flip(1), prompt_rows=PROMPT_ROWS)
        made = denoiser.denoise(block, window=windows[block], noise=inputs.noise, steps=denoising_steps(2))
        assert torch.equal(made, whole[block]) == (block < 2)


def test_bfloat16_stays_near_float32() -> None:
    exact = all_blocks(denoiser_of(network(torch.float32)), Inputs(torch.float32))
    rounded = all_blocks(denoiser_of(network(torch.bfloat16)), Inputs(torch.bfloat16))
    for a, b in zip(rounded, exact, strict=True):
        assert a.dtype is torch.bfloat16
        assert (a.float() - b).norm() / b.norm() < 0.03


def test_layers_without_audio_leave_the_sound_out() -> None:
    silent = replace(CONFIG, audio_inject_layers=())
    inputs, other = Inputs(torch.float32), Inputs(torch.float32)
    other.sound = -other.sound
    dit = network(torch.float32, silent)
    assert torch.equal(all_blocks(denoiser_of(dit), inputs)[0], all_blocks(denoiser_of(dit), other)[0])
    heard = network(torch.float32)
    assert not torch.equal(all_blocks(denoiser_of(heard), inputs)[0], all_blocks(denoiser_of(heard), other)[0])

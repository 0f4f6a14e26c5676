"""Two ways of making one video are held against each other from the same numbers on."""

import torch

from worker.bench.jobs import CompareJob
from worker.bench.ranks import in_ranks
from worker.bench.stand_ins import beginning, settings_for, weights_from, window
from worker.bench.stretch import Compared
from worker.pipeline.compute import Compute
from worker.pipeline.config import PIXELS_PER_LATENT, preset
from worker.pipeline.dit_share import DiTShare
from worker.pipeline.noise import block_noise
from worker.pipeline.parallel import RankLayout, SequenceParallel
from worker.pipeline.schedule import denoising_steps, renoise

HEIGHT, WIDTH, BLOCKS = 64, 96, 10


def test_a_way_does_not_differ_from_itself_and_bfloat16_does_by_its_rounding() -> None:
    job = CompareJob(
        preset="tiny",
        ways=("float32", "float32", "bf16"),
        steps=4,
        height=HEIGHT,
        width=WIDTH,
        blocks=BLOCKS,
        weights=None,
        audio=None,
        image=None,
    )
    (found,) = in_ranks("worker.bench.compare", job, finds=Compared, devices=("cpu",), threads=1, say=lambda _: None)
    same, rounded = found.comparisons
    assert [one.way for one in found.comparisons] == ["float32", "bf16"]
    assert {error.flow for error in same.step_errors} == {0.0}
    assert {error.latents for error in same.block_errors} == {0.0}
    assert {error.psnr_db for error in same.block_errors} == {None, float("inf")}
    assert [error.timestep for error in rounded.step_errors] == [step.timestep for step in denoising_steps(4)]
    assert all(1e-3 < error.flow < 3e-2 for error in rounded.step_errors)
    assert all(1e-3 < error.latents < 5e-2 for error in rounded.block_errors)
    decoded = {error.block: error.psnr_db for error in rounded.block_errors if error.psnr_db is not None}
    assert list(decoded) == [0, 8, 9]
    assert all(20 < psnr < 60 for psnr in decoded.values())


def test_the_flow_of_each_step_is_that_of_the_block_it_belongs_to() -> None:
    config = preset("tiny").dit
    share = DiTShare.load(
        config,
        sequence=SequenceParallel(size=1, group=None),
        layout=RankLayout.alone(),
        compute=Compute.on(torch.device("cpu")),
        weights=weights_from(None),
    )
    settings = settings_for(config, height=HEIGHT, width=WIDTH, steps=4, blocks=1)
    heard = window(config, device=torch.device("cpu"))
    given = beginning(config, height=HEIGHT, width=WIDTH)
    made = share.begin(settings, given).make(0, window=heard)
    session = share.begin(settings, given)
    shape = (config.in_dim, config.num_frame_per_block, HEIGHT // PIXELS_PER_LATENT, WIDTH // PIXELS_PER_LATENT)
    latents = block_noise(settings.seed, block=0, step=0, shape=shape)
    for step in denoising_steps(4):
        clean = step.clean(latents, session.flow(0, window=heard, latents=latents, step=step))
        if step.next_sigma is not None:
            fresh = block_noise(settings.seed, block=0, step=step.index + 1, shape=shape)
            latents = renoise(clean, fresh, sigma=step.next_sigma)
    torch.testing.assert_close(clean, made, rtol=1e-5, atol=1e-5)

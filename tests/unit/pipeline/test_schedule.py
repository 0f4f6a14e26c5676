"""Timesteps and the two formulas around the flow."""

import pytest
import torch

from worker.pipeline.errors import InvalidRender
from worker.pipeline.schedule import denoising_steps, renoise


@pytest.mark.parametrize(
    ("count", "timesteps", "sigmas"),
    [(4, [1000, 900, 750, 500], [1, 0.8999999761581421, 0.75, 0.5]), (2, [1000, 750], [1, 0.75])],
)
def test_steps_are_those_of_the_released_configurations(
    count: int, timesteps: list[float], sigmas: list[float]
) -> None:
    steps = denoising_steps(count)
    assert [step.timestep for step in steps] == timesteps
    assert [step.sigma for step in steps] == sigmas
    assert [step.next_sigma for step in steps] == [*sigmas[1:], None]


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_another_number_of_steps_is_refused_with_the_known_ones_named(count: int) -> None:
    with pytest.raises(InvalidRender, match=f"{count}, must be 2 or 4"):
        denoising_steps(count)


def test_the_flow_from_clean_to_noise_leads_back_to_clean() -> None:
    clean, noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).double().unbind()
    for step in denoising_steps(4):
        noisy = renoise(clean, noise, sigma=step.sigma)
        torch.testing.assert_close(step.clean(noisy, noise - clean), clean, rtol=0, atol=1e-14)


def test_clean_latents_are_kept_in_float32_under_bfloat16() -> None:
    noisy = torch.ones(4, dtype=torch.bfloat16)
    clean = denoising_steps(2)[1].clean(noisy, torch.full_like(noisy, 1 / 128))
    assert clean.dtype is torch.float32
    assert clean[0] == 1 - 0.75 / 128

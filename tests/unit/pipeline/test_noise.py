"""Noise as a function of seed, block, step and place."""

import itertools

import numpy as np
import pytest
import torch

from worker.pipeline.errors import InvalidRender
from worker.pipeline.noise import block_noise, check_seed

SHAPE = (16, 2, 8, 12)


def test_noise_is_the_same_for_ever() -> None:
    """Made with another implementation of Philox 4x64-10: a video rendered again must be the same video."""
    words = [philox_4x64(counter=(1 + i, 0, 3, 7), key=(42, 0)) for i in range(2)]
    uniform = [((word >> 11) + 0.5) * 2.0**-53 for word in itertools.chain(*words)]
    wanted = []
    for first, second in zip(uniform[::2], uniform[1::2], strict=True):
        radius = np.sqrt(-2 * np.log(first))
        wanted += [radius * np.cos(2 * np.pi * second), radius * np.sin(2 * np.pi * second)]
    made = block_noise(42, block=7, step=3, shape=(2, 4))
    np.testing.assert_allclose(made.flatten().numpy(), wanted, rtol=1e-6)


def test_noise_is_standard_normal() -> None:
    noise = block_noise(1, block=0, step=0, shape=(64, 4, 32, 32)).double()
    assert abs(noise.mean()) < 0.005
    assert abs(noise.std() - 1) < 0.005
    assert abs((noise**4).mean() - 3) < 0.05
    assert 4 < noise.abs().max() < 7


def test_every_seed_block_and_step_has_its_own_noise() -> None:
    drawn = [
        block_noise(seed, block=block, step=step, shape=SHAPE)
        for seed, block, step in itertools.product((0, 1, 2**63 - 1), (0, 1, 2), (0, 1, 3))
    ]
    for a, b in itertools.combinations(drawn, 2):
        correlation = torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1]
        assert abs(correlation) < 0.08


def test_an_odd_count_is_the_beginning_of_the_even_one() -> None:
    odd = block_noise(1, block=0, step=0, shape=(7,))
    assert torch.equal(odd, block_noise(1, block=0, step=0, shape=(8,))[:7])


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(InvalidRender, match="seed"):
        check_seed(seed)


def philox_4x64(*, counter: tuple[int, ...], key: tuple[int, int]) -> list[int]:
    """Ten rounds as in the paper of Salmon et al., 2011, with plain integers."""
    mask = 2**64 - 1
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (second >> 64) ^ b ^ k0, second & mask, (first >> 64) ^ d ^ k1, first & mask
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
    return [a, b, c, d]

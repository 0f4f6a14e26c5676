"""Presets and the sizes in them."""

from dataclasses import replace

import pytest
import torch

from worker.pipeline.config import PRESETS, check_size, preset
from worker.pipeline.dit.dit import DiT
from worker.pipeline.errors import InvalidRender, UnknownPreset


def test_an_unknown_preset_is_refused_with_the_known_ones_named() -> None:
    with pytest.raises(UnknownPreset, match=r"'15b'.*avatar, tiny, 14b"):
        preset("15b")


def test_the_released_network_has_the_released_keys_and_parameters() -> None:
    config = preset("14b").dit
    with torch.device("meta"):
        dit = DiT(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in dit.state_dict().items()}
    unused = {  # cond_encoder and frame_packer: in the file, not in this path
        "cond_encoder": (1, 2, 2),
        "frame_packer.proj": (1, 2, 2),
        "frame_packer.proj_2x": (2, 4, 4),
        "frame_packer.proj_4x": (4, 8, 8),
    }
    unused_parameters = sum(config.dim * (16 * f * h * w + 1) for f, h, w in unused.values())
    assert len(shapes) + 2 * len(unused) == 1260
    assert sum(parameter.numel() for parameter in dit.parameters()) + unused_parameters == 16_295_755_609
    assert shapes["blocks.39.ffn.2.weight"] == (5120, 13824)
    assert shapes["casual_audio_encoder.encoder.conv1_local.conv.weight"] == (5120, 1024, 3)
    assert shapes["audio_injector.injector_adain_layers.11.linear.bias"] == (10240,)
    assert shapes["trainable_cond_mask.weight"] == (3, 5120)


def test_the_released_head_splits_its_pairs_as_the_reference_does() -> None:
    assert preset("14b").dit.rope_pairs == (22, 21, 21)


@pytest.mark.parametrize("name", PRESETS)
def test_networks_of_a_preset_must_fit_together(name: str) -> None:
    config = preset(name)
    with pytest.raises(ValueError, match="audio states"):
        replace(config, audio=replace(config.audio, num_layers=config.audio.num_layers + 1))
    with pytest.raises(ValueError, match="text width"):
        replace(config, text=replace(config.text, dim=config.text.dim + 8))


def test_sizes_that_cannot_be_built_are_refused() -> None:
    config = preset("tiny").dit
    with pytest.raises(ValueError, match="heads"):
        replace(config, num_heads=5)
    with pytest.raises(ValueError, match="injected"):
        replace(config, audio_inject_layers=(config.num_layers,))
    with pytest.raises(ValueError, match="patch"):
        replace(config, patch=(1, 4, 4))


@pytest.mark.parametrize(("width", "height"), [(192, 144), (480, 640), (192, 640)])
def test_a_size_that_the_weights_do_not_know_is_refused_with_those_that_they_do(width: int, height: int) -> None:
    with pytest.raises(InvalidRender, match=rf"avatar .* 192 x 192 or 144 x 192 pixels, not {width} x {height}"):
        check_size(preset("avatar"), width=width, height=height)
    check_size(preset("avatar"), width=144, height=192)
    check_size(preset("tiny"), width=width, height=height)

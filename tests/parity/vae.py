"""The video autoencoder against its golden: picture, video, and a stream in blocks (specification, section 11)."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.parity.golden import FLOAT32_RELATIVE, Result, difference, load_facts, load_tensors, result
from worker.pipeline.checkpoint import GivenWeights, Network
from worker.pipeline.config import VAEConfig
from worker.pipeline.vae import VideoAutoencoder


def check(directory: Path, dtype: torch.dtype) -> Result:
    facts = load_facts(directory, "vae")
    tensors = load_tensors(directory, "vae")
    sizes = facts["config"]
    autoencoder = VideoAutoencoder(
        VAEConfig(
            base_dim=sizes["dim"],
            dim_mult=tuple(sizes["dim_mult"]),
            num_res_blocks=sizes["num_res_blocks"],
            temporal_downsample=tuple(sizes["temperal_downsample"]),
            z_dim=sizes["z_dim"],
        ),
        device=torch.device("cpu"),
        dtype=dtype,
        weights=GivenWeights({Network.VAE: load_tensors(directory, "vae_weights")}),
    )
    latents_cThw = tensors["in.latents"][0].transpose(0, 1)
    stream = autoencoder.decode_stream()
    blocks = [stream.decode_pixels(block) for block in latents_cThw.split(facts["blocks"], dim=1)]
    frames = [block.shape[1] for block in blocks]
    if frames != facts["stream_frames_per_block"]:
        raise AssertionError(f"frames per block {frames}, golden {facts['stream_frames_per_block']}")
    compared = [
        ("stream", torch.cat(blocks, dim=1), "out.whole"),
        ("image", autoencoder.encode_video(tensors["in.image"][0]), "out.image_latent"),
        ("video", autoencoder.encode_video(tensors["in.video"][0]), "out.video_latent"),
    ]
    return result(
        "VAE",
        [difference(what, made.transpose(0, 1)[None], tensors[name]) for what, made, name in compared],
        limit=FLOAT32_RELATIVE,
    )

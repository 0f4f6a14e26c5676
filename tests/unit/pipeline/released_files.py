"""Writes files of exactly the published layouts at small sizes (specification, section 2).

Key names are the golden's: its lists were taken from the reference's own modules.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from worker.pipeline.audio_encoder import AudioEncoder
from worker.pipeline.checkpoint import Network, RandomWeights, WeightSource
from worker.pipeline.config import PRESETS, TextEncoderConfig, Tokenizer, VAEConfig
from worker.pipeline.dit.dit import DiT
from worker.pipeline.text_encoder import TextEncoder
from worker.pipeline.vae import VideoAutoencoder

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"
CPU = torch.device("cpu")
VAE = VAEConfig(base_dim=4)
TEXT = TextEncoderConfig(
    vocab_size=40, dim=16, dim_attn=24, dim_ffn=32, num_heads=2, num_layers=3, tokenizer=Tokenizer.BYTES, text_len=8
)
AUDIO = PRESETS["tiny"].audio
DIT = PRESETS["tiny"].dit

Tensors = Mapping[str, Tensor]


def network(which: Network, weights: WeightSource, *, dtype: torch.dtype = torch.float32) -> nn.Module:
    """One small network, filled."""
    module: nn.Module
    if which is Network.DIT:
        with torch.device("meta"):
            module = DiT(DIT)
        weights.fill(module, which, device=CPU, dtype=dtype)
    elif which is Network.VAE:
        module = VideoAutoencoder(VAE, device=CPU, dtype=dtype, weights=weights)._network
    elif which is Network.TEXT:
        module = TextEncoder(TEXT, device=CPU, dtype=dtype, weights=weights)._network
    else:
        module = AudioEncoder(AUDIO, device=CPU, dtype=dtype, weights=weights)._network
    return module


def tensors(which: Network) -> dict[str, Tensor]:
    """Its weights under the names of the library that holds it, or for the DiT the released names."""
    module = network(which, RandomWeights(7))
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def native_vae() -> dict[str, Tensor]:
    """As in `Wan2.1_VAE.pth`."""
    mapping = json.loads((GOLDEN / "vae.json").read_text())["diffusers"]["key_mapping"]
    held = tensors(Network.VAE)
    return {native: held[name] for native, name in mapping.items()}


def native_text() -> dict[str, Tensor]:
    """As in `models_t5_umt5-xxl-enc-bf16.pth`."""
    mapping = json.loads((GOLDEN / "t5.json").read_text())["umt5"]["key_mapping"]
    held = tensors(Network.TEXT)
    return {native: held[names[0]] for native, names in mapping.items()}


def hub_text() -> dict[str, Tensor]:
    """As transformers writes a `UMT5EncoderModel`, the embedding under both names."""
    held = tensors(Network.TEXT)
    return held | {"encoder.embed_tokens.weight": held["shared.weight"].clone()}


def ctc_audio(*, weight_norm: tuple[str, str]) -> dict[str, Tensor]:
    """As a `Wav2Vec2ForCTC`, with its head, its mask and one of the two spellings of weight norm."""
    held = {f"wav2vec2.{name}": tensor for name, tensor in tensors(Network.AUDIO).items()}
    conv = "wav2vec2.encoder.pos_conv_embed.conv."
    for ours, theirs in zip(("original0", "original1"), weight_norm, strict=True):
        held[conv + theirs] = held.pop(f"{conv}parametrizations.weight.{ours}")
    width = AUDIO.hidden_size
    return held | {
        "lm_head.weight": torch.zeros(5, width),
        "lm_head.bias": torch.zeros(5),
        "wav2vec2.masked_spec_embed": torch.zeros(width),
    }


def base_dit() -> dict[str, Tensor]:
    """As in the shards of the base network: with what this path does not use."""
    dim, latents = DIT.dim, DIT.in_dim
    unused = {"cond_encoder": (1, 2, 2), "frame_packer.proj": (1, 2, 2), "frame_packer.proj_2x": (2, 4, 4)}
    held = tensors(Network.DIT)
    for name, kernel in unused.items():
        held |= {f"{name}.weight": torch.zeros(dim, latents, *kernel), f"{name}.bias": torch.zeros(dim)}
    return held


def generator() -> dict[str, Tensor]:
    """As the entry `generator` of `model.pt`."""
    return {f"model.{name}": tensor for name, tensor in base_dit().items()}


def save_shards(held: Tensors, folder: Path, stem: str, *, count: int) -> Path:
    """`stem-0000N-of-0000M.safetensors` with an index; the index's path."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(held)
    weight_map = {}
    for number in range(count):
        shard = f"{stem}-{number + 1:05}-of-{count:05}.safetensors"
        keys = names[number::count]
        save_file({key: held[key].contiguous().clone() for key in keys}, folder / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(keys, shard)
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return index


def save_pickle(held: object, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(held, path)
    return path

"""Key names of the released files, and what our modules call the same tensors.

Knows names only (model specification, sections 3, 9, 10, 11). The DiT's modules have the released names. The VAE, the
text encoder and wav2vec2 are modules of diffusers and transformers; both the native files and the libraries' own are
understood, told apart key by key.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import StrEnum

from worker.pipeline.checkpoint.fill import NameOf


class Network(StrEnum):
    """A network that has weights of its own."""

    DIT = "dit"
    VAE = "vae"
    TEXT = "text encoder"
    AUDIO = "audio encoder"


def released_names(network: Network, own_names: Collection[str]) -> NameOf:
    """The translation of a network's released keys; `own_names` are the names in the module to fill."""
    if network is Network.DIT:
        return dit_name
    if network is Network.TEXT:
        return text_encoder_name
    if network is Network.AUDIO:
        return wav2vec2_name
    resnets = {name.split(".")[4] for name in own_names if name.startswith("decoder.up_blocks.0.resnets.")}
    return lambda key: vae_name(key, resnets_per_level=len(resnets))


_DIT_UNUSED = ("cond_encoder.", "frame_packer.")


def dit_name(key: str) -> str | None:
    """`model.pt` has the prefix `model.`, the shards of the base network have none."""
    name = key.removeprefix("model.")
    return None if name.startswith(_DIT_UNUSED) else name


_TEXT_TOP = {
    "token_embedding.weight": "shared.weight",
    "encoder.embed_tokens.weight": "shared.weight",
    "norm.weight": "encoder.final_layer_norm.weight",
}
_TEXT_LAYER = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}


def text_encoder_name(key: str) -> str:
    """From `models_t5_umt5-xxl-enc-bf16.pth`, or from transformers, to transformers' `UMT5EncoderModel`."""
    if key in _TEXT_TOP:
        return _TEXT_TOP[key]
    native = re.fullmatch(r"blocks\.(\d+)\.(.+)\.weight", key)
    if native and native[2] in _TEXT_LAYER:
        return f"encoder.block.{native[1]}.{_TEXT_LAYER[native[2]]}.weight"
    return key


_WEIGHT_NORM = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}


def wav2vec2_name(key: str) -> str | None:
    """From a `Wav2Vec2ForCTC` to transformers' `Wav2Vec2Model`; the letter head and the training mask are not used."""
    name = key.removeprefix("wav2vec2.")
    if name.startswith("lm_head.") or name == "masked_spec_embed":
        return None
    owner, _, leaf = name.rpartition(".")
    return f"{owner}.{_WEIGHT_NORM[leaf]}" if leaf in _WEIGHT_NORM else name


_VAE_RESIDUAL = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
    "resample.1": "resample.1",
    "time_conv": "time_conv",
}
_VAE_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
_VAE_ENDS = {"conv1": "conv_in", "head.0": "norm_out", "head.2": "conv_out"}
_VAE_QUANT = {"conv1": "quant_conv", "conv2": "post_quant_conv"}


def vae_name(key: str, *, resnets_per_level: int) -> str:
    """From `Wan2.1_VAE.pth`, or from diffusers, to diffusers' `AutoencoderKLWan`.

    The native decoder counts all its layers in one row: the residual blocks of a level, then its upsampler.
    """
    path, _, leaf = key.rpartition(".")
    if path in _VAE_QUANT:
        return f"{_VAE_QUANT[path]}.{leaf}"
    side, _, inside = path.partition(".")
    if side not in ("encoder", "decoder"):
        return key
    if inside in _VAE_ENDS:
        return f"{side}.{_VAE_ENDS[inside]}.{leaf}"
    if middle := re.fullmatch(r"middle\.([012])\.(.+)", inside):
        return f"{side}.mid_block.{_VAE_MIDDLE[middle[1]]}.{_VAE_RESIDUAL.get(middle[2], middle[2])}.{leaf}"
    if (down := re.fullmatch(r"downsamples\.(\d+)\.(.+)", inside)) and down[2] in _VAE_RESIDUAL:
        return f"{side}.down_blocks.{down[1]}.{_VAE_RESIDUAL[down[2]]}.{leaf}"
    if (up := re.fullmatch(r"upsamples\.(\d+)\.(.+)", inside)) and up[2] in _VAE_RESIDUAL:
        level, place = divmod(int(up[1]), resnets_per_level + 1)
        layer = "upsamplers.0" if place == resnets_per_level else f"resnets.{place}"
        return f"{side}.up_blocks.{level}.{layer}.{_VAE_RESIDUAL[up[2]]}.{leaf}"
    return key

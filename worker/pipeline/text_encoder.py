"""A prompt to the rows that the DiT attends to (specification, section 10).

Knows text and its embedding. The network is transformers' `UMT5EncoderModel`. Its table of words stays on the host,
since a prompt looks up a few of its many rows; where memory is to be saved, so does the rest: prompts are few, and
encoded once. What stays there is mapped from its file where it can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel

from worker.pipeline.checkpoint import Network, WeightSource, wanted_shapes
from worker.pipeline.config import TextEncoderConfig
from worker.pipeline.config import Tokenizer as Vocabulary
from worker.pipeline.precision import MemoryUse
from worker.pipeline.prompt import ByteTokenizer, Tokenizer, UMT5Tokenizer, clean

WORDS = "shared.weight"
"""A row for each word of the vocabulary."""


class TextEmbedding(NamedTuple):
    rows: Tensor
    """[text_len, text_dim]; those past `length` are exactly zero."""
    length: int
    """Rows of the prompt itself, its end mark included."""


class TextEncoder:
    """The UMT5 encoder with its tokenizer. Raises `CheckpointError` when files are absent or wrong."""

    def __init__(
        self,
        config: TextEncoderConfig,
        *,
        device: torch.device,
        dtype: torch.dtype,
        weights: WeightSource,
        memory: MemoryUse = MemoryUse.AMPLE,
    ) -> None:
        """Embeddings come out on `device`; the table of words is on the host, and with low memory the whole network."""
        is_low = memory is MemoryUse.LOW
        self._config = config
        self._device = device
        self._blocks_at = torch.device("cpu") if is_low else device
        self._tokenizer = _tokenizer(config, weights)
        with torch.device("meta"):
            network = UMT5EncoderModel(
                UMT5Config(
                    vocab_size=config.vocab_size,
                    d_model=config.dim,
                    d_kv=config.dim_attn // config.num_heads,
                    d_ff=config.dim_ffn,
                    num_layers=config.num_layers,
                    num_heads=config.num_heads,
                    relative_attention_num_buckets=config.num_buckets,
                    relative_attention_max_distance=config.max_distance,
                    layer_norm_epsilon=config.eps,
                    feed_forward_proj="gated-gelu",
                    dropout_rate=0.0,
                )
            )
        network.encoder.embed_tokens = network.shared  # one module under both names, so that one fill does
        on_host = wanted_shapes(network) if is_low else {WORDS}
        weights.fill(network, Network.TEXT, device=device, dtype=dtype, on_host=on_host)
        self._network = nn.Module.eval(network)

    def encode(self, prompt: str) -> TextEmbedding:
        """The embedding of a prompt as its author wrote it; what does not fit into `text_len` tokens is cut off."""
        return self.encode_ids(self._tokenizer.ids(clean(prompt), at_most=self._config.text_len))

    @torch.no_grad()
    def encode_ids(self, ids: Sequence[int]) -> TextEmbedding:
        """The embedding of token ids without padding.

        Padding is masked inside the encoder, so leaving it out changes nothing but the time this takes.
        """
        words_1TD = self._network.get_submodule("shared")(torch.tensor([list(ids)])).to(self._blocks_at)
        made_TD: Tensor = self._network(inputs_embeds=words_1TD).last_hidden_state[0].to(self._device)
        rows = made_TD.new_zeros(self._config.text_len, made_TD.shape[1])
        rows[: len(ids)] = made_TD
        return TextEmbedding(rows=rows, length=len(ids))


def _tokenizer(config: TextEncoderConfig, weights: WeightSource) -> Tokenizer:
    folder = weights.tokenizer_directory() if config.tokenizer is Vocabulary.UMT5 else None
    return ByteTokenizer() if folder is None else UMT5Tokenizer(folder)

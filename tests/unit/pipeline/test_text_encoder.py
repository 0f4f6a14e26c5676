"""Prompts to rows: padding, truncation, and a vocabulary from files on this machine only."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

from worker.pipeline.checkpoint import CheckpointNotFound, RandomWeights, ReleasedWeights
from worker.pipeline.config import PRESETS, TextEncoderConfig
from worker.pipeline.config import Tokenizer as Vocabulary
from worker.pipeline.prompt import ByteTokenizer, UMT5Tokenizer, clean
from worker.pipeline.text_encoder import TextEncoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(PRESETS["tiny"].text, device=CPU, dtype=torch.float32, weights=RandomWeights(0))


def test_rows_past_the_prompt_are_exactly_zero(encoder: TextEncoder) -> None:
    rows, length = encoder.encode("A character is talking.")
    assert (length, rows.shape) == (len("A character is talking.") + 1, (64, 32))
    assert rows[:length].abs().sum(1).min() > 0
    assert not rows[length:].any()


def test_a_prompt_means_the_same_however_it_is_spaced_and_escaped(encoder: TextEncoder) -> None:
    plain, shouted = encoder.encode("she &  he"), encoder.encode(" she &amp;amp;\n he ")
    assert torch.equal(plain.rows, shouted.rows)
    assert not torch.equal(plain.rows, encoder.encode("She & he").rows)


def test_entities_are_undone_twice_even_beside_tags() -> None:
    """Where there is a tag, mending the encoding leaves entities alone."""
    assert clean("<b>she &amp;amp; he</b>") == "<b>she & he</b>"


def test_a_prompt_too_long_is_cut_before_its_end_mark(encoder: TextEncoder) -> None:
    rows, length = encoder.encode("x" * 1000)
    assert length == len(rows) == 64
    assert torch.equal(rows, encoder.encode_ids([*[3 + ord("x")] * 63, 1]).rows)


def test_an_empty_prompt_is_its_end_mark(encoder: TextEncoder) -> None:
    assert encoder.encode(" \n ").length == 1


def test_leaving_padding_out_gives_what_masking_it_gives(encoder: TextEncoder) -> None:
    ids = ByteTokenizer().ids("lips", at_most=64)
    padded = torch.tensor([ids + [0] * (64 - len(ids))])
    with torch.no_grad():
        masked = encoder._network(input_ids=padded, attention_mask=(padded != 0).long()).last_hidden_state[0]
    torch.testing.assert_close(encoder.encode_ids(ids).rows[: len(ids)], masked[: len(ids)], rtol=1e-5, atol=1e-5)


def test_words_looked_up_beforehand_give_what_the_network_makes_of_their_ids(encoder: TextEncoder) -> None:
    ids = ByteTokenizer().ids("lips", at_most=64)
    with torch.no_grad():
        whole = encoder._network(input_ids=torch.tensor([ids])).last_hidden_state[0]
    assert torch.equal(encoder.encode_ids(ids).rows[: len(ids)], whole)


def test_bytes_of_any_language_fit_the_vocabulary() -> None:
    ids = ByteTokenizer().ids(clean("дубляж 配音"), at_most=64)
    assert ids[-1] == 1
    assert 2 < min(ids[:-1]) <= max(ids[:-1]) < PRESETS["tiny"].text.vocab_size


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    """A folder like `google/umt5-xxl`, of a few words."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0), ("▁face", -2.0), ("▁", -3.0), ("s", -4.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder = tmp_path / "Wan-AI/Wan2.2-S2V-14B/google/umt5-xxl"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    ).save_pretrained(folder)
    return tmp_path


def test_ids_come_from_the_files_beside_the_released_weights(vocabulary: Path) -> None:
    tokenizer = UMT5Tokenizer(ReleasedWeights(vocabulary).tokenizer_directory())
    assert tokenizer.ids("a faces", at_most=512) == [3, 4, 6, 1]
    assert tokenizer.ids("a face a face a face", at_most=4) == [3, 4, 3, 1]


def test_a_vocabulary_that_is_not_there_is_named_before_any_weight_is_read(tmp_path: Path) -> None:
    config = TextEncoderConfig(
        vocab_size=9, dim=8, dim_attn=8, dim_ffn=8, num_heads=2, num_layers=1, tokenizer=Vocabulary.UMT5
    )
    with pytest.raises(CheckpointNotFound, match="tokenizer of the text encoder not found"):
        TextEncoder(config, device=CPU, dtype=torch.float32, weights=ReleasedWeights(tmp_path))


def test_the_network_is_not_in_training_mode(encoder: TextEncoder) -> None:
    assert isinstance(encoder._network, nn.Module)
    assert not encoder._network.training

"""A prompt as the text encoder takes it: cleaned and cut into token ids (specification, section 10).

Knows strings and ids. Ids come from the files of `google/umt5-xxl` beside the released weights, or, where the weights
know no vocabulary, from the bytes of the text. Nothing is ever downloaded.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any, Protocol

import ftfy

USUAL_PROMPT = "A character is talking."
"""What most videos are rendered with."""

END_MARK = 1
"""Id that closes every prompt, in both vocabularies."""


class Tokenizer(Protocol):
    def ids(self, text: str, *, at_most: int) -> list[int]:
        """Ids of a cleaned text, the end mark last; a text too long loses its end, never the mark."""
        ...


def clean(prompt: str) -> str:
    """Mended encoding, HTML entities as characters, every run of white space as one space. Case is kept."""
    text = html.unescape(html.unescape(ftfy.fix_text(prompt))).strip()
    return re.sub(r"\s+", " ", text).strip()


class ByteTokenizer:
    """The UTF-8 bytes, after three ids for padding, end mark and unknown."""

    FIRST_BYTE = 3

    def ids(self, text: str, *, at_most: int) -> list[int]:
        """As `Tokenizer.ids`, one id for each byte."""
        return [*(byte + self.FIRST_BYTE for byte in text.encode()[: at_most - 1]), END_MARK]


class UMT5Tokenizer:
    """The vocabulary in a folder with `tokenizer_config.json` and the tokenizer's model. Raises `OSError`."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer  # it takes a second, and small networks go without

        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)

    def ids(self, text: str, *, at_most: int) -> list[int]:
        """As `Tokenizer.ids`, of the released vocabulary."""
        encoded = self._tokenizer(text, add_special_tokens=True, truncation=True, max_length=at_most)
        return [int(i) for i in encoded["input_ids"]]

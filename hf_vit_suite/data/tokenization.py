"""Trains a CLIP-style byte-level tokenizer on custom captions."""

import json
from collections.abc import Iterable

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

END_OF_WORD = "</w>"
MOST_TOKENS = 77
SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>")
SMALLEST_VOCABULARY = 2 * 256 + len(SPECIAL_TOKENS)


def train_tokenizer(captions: Iterable[str], vocab_size: int, most_tokens: int = MOST_TOKENS) -> CLIPTokenizer:
    """Trains byte-pair encoding on captions (Radford et al. 2021, arXiv 2103.00020, section 2.4).

    The vocabulary has CLIP's layout: 256 bytes, 256 word-final bytes, the merges by rank, start and end of text. Any
    text can be encoded, and the end token has the largest id.

    Args:
        captions: Training texts.
        vocab_size: Maximum size of the vocabulary; few captions give a smaller one.
        most_tokens: The tokenizer's `model_max_length`, to which it truncates on request.

    Raises:
        ValueError: If `vocab_size` is too small for the bytes and special tokens.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise ValueError(f"--vocab_size must be at least {SMALLEST_VOCABULARY} (bytes, start, end), got {vocab_size}")
    trained = CLIPTokenizer().train_new_from_iterator(captions, vocab_size, show_progress=False)
    merges = [tuple(pair) for pair in json.loads(trained.backend_tokenizer.to_str())["model"]["merges"]]
    merges = merges[: vocab_size - SMALLEST_VOCABULARY]
    symbols = sorted(ByteLevel.alphabet())
    tokens = [*symbols, *(symbol + END_OF_WORD for symbol in symbols), *map("".join, merges), *SPECIAL_TOKENS]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=most_tokens)

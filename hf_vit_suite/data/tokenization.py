"""A byte-level tokenizer of CLIP's kind, trained on one's own captions."""

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

    The vocabulary is laid out as CLIP's: the 256 bytes, the 256 bytes that end a word, the merges by their rank, start
    and end of text. So every text can be written, and the end has the largest number.

    Args:
        captions: Texts to learn from.
        vocab_size: Most tokens of the vocabulary; few captions have fewer.
        most_tokens: Tokens that the tokenizer cuts texts to where it is asked to.

    Raises:
        ValueError: If `vocab_size` leaves no room for the bytes.
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

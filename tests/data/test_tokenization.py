"""A tokenizer trained on captions works as CLIP's own does."""

import open_clip
import pytest
from transformers import AutoTokenizer, CLIPTokenizer

from hf_vit_suite.data import train_tokenizer

CAPTIONS = ["a photo of a cat", "two dogs playing in the snow", "the cat's hat, a photo of it"] * 5


def test_every_text_is_written_without_an_unknown_token():
    tokenizer = train_tokenizer(CAPTIONS, 600)
    for text in ("a cat", "xylophone", "北京 is far", "naïve 🎉!", "CAT's\n\thats"):
        input_ids = tokenizer(text).input_ids
        assert input_ids[0] == tokenizer.bos_token_id
        assert input_ids.index(tokenizer.eos_token_id) == len(input_ids) - 1
        whole = tokenizer.decode(input_ids, skip_special_tokens=True)
        assert "".join(whole.split()) == "".join(text.lower().split())


def test_frequent_words_become_tokens_and_the_end_has_the_largest_number():
    tokenizer = train_tokenizer(CAPTIONS, 600)
    assert tokenizer.tokenize("photo of a CAT") == ["photo</w>", "of</w>", "a</w>", "cat</w>"]
    assert max(tokenizer.get_vocab().values()) == tokenizer.eos_token_id == len(tokenizer) - 1
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_vocabulary_is_bounded_and_survives_a_file(tmp_path):
    tokenizer = train_tokenizer(CAPTIONS, 520, most_tokens=7)
    assert len(tokenizer) == 520
    assert len(tokenizer("a photo of a cat " * 9, truncation=True).input_ids) == 7
    tokenizer.save_pretrained(tmp_path)
    reopened = AutoTokenizer.from_pretrained(tmp_path)
    assert type(reopened) is CLIPTokenizer
    assert reopened.get_vocab() == tokenizer.get_vocab()
    assert reopened("the cat's snow").input_ids == tokenizer("the cat's snow").input_ids
    assert reopened.model_max_length == 7
    with pytest.raises(ValueError, match="--vocab_size must be at least 514"):
        train_tokenizer(CAPTIONS, 513)


def test_bytes_stand_where_the_papers_tokenizer_has_them():
    theirs = open_clip.get_tokenizer("ViT-B-32").encoder
    ours = train_tokenizer(CAPTIONS, 600).get_vocab()
    assert {token for token, number in theirs.items() if number < 512} <= ours.keys()
    assert {token for token, number in ours.items() if number < 512} <= theirs.keys()

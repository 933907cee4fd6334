"""Captions in flat arrays equal nested lists."""

import tracemalloc

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from jaxcap.config import DataConfig
from jaxcap.data.captions import Captions, SplitCaptions, split_captions
from jaxcap.text.units import Characters
from jaxcap.text.vocabulary import BOS, EOS, UNK, Vocabulary

WORDS = ["a", "dog", "runs", "犬", "<eos>"]
TEXTS = st.lists(st.lists(st.lists(st.sampled_from(WORDS), max_size=9), max_size=5), max_size=7)


@hypothesis.given(TEXTS)
def test_packing_captions_loses_nothing(texts):
    packed = SplitCaptions.collect(texts)
    assert list(packed) == texts
    assert len(packed) == len(texts)
    assert packed[1:3] == texts[1:3]
    words = [word for of_image in texts for caption in of_image for word in caption]
    assert packed.counts() == {word: words.count(word) for word in words}


@hypothesis.given(
    TEXTS, st.integers(1, 4), st.sampled_from([(2,), (3, 5), (7,), (30,)]), st.integers(1, 3)
)
def test_encoding_a_split_equals_encoding_each_caption(texts, per_image, buckets, at_once):
    """`Vocabulary.encode` is the reference, for any size of the parts."""
    vocabulary = Vocabulary.from_captions([["a", "dog", "犬"]], min_count=1)
    config = DataConfig(captions_per_image=per_image, length_buckets=buckets)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxcap.data.captions._AT_ONCE", at_once)
        captions = Captions.encode(texts, vocabulary, config=config)
    expected = [
        tuple(
            tuple(vocabulary.encode(words, max_length=buckets[-1]))
            for words in of_image[:per_image]
        )
        for of_image in texts
    ]
    assert list(captions) == expected
    longest = [max(map(len, of_image), default=0) for of_image in expected]
    assert captions.longest.tolist() == longest
    assert captions.rows.values.dtype == np.uint16


@pytest.mark.slow
def test_a_large_vocabulary_has_room_for_its_ids():
    words = [f"word{n}" for n in range(70_000)]
    vocabulary = Vocabulary.from_captions([words], min_count=1)
    (captions,) = Captions.encode(
        [[words]], vocabulary, config=DataConfig(length_buckets=(80_000,))
    )
    assert captions[0] == tuple(vocabulary.encode(words, max_length=80_000))
    assert max(captions[0]) == 70_003


def test_an_index_out_of_range_is_an_error():
    captions = Captions.encode(
        [[["a"]]], Vocabulary.from_captions([["a"]], min_count=1), config=DataConfig()
    )
    assert captions[-1] == captions[0] == ((BOS, 4, EOS),)
    for index in (1, -2):
        with pytest.raises(IndexError, match=f"image {index} of 1"):
            captions[index]


def test_captions_by_characters():
    texts = split_captions([["红圆", " "], ["红 方"]], Characters())
    assert list(texts) == [[["红", "圆"]], [["红", " ", "方"]]]
    vocabulary = Vocabulary.from_counts(texts.counts(), min_count=2, units=Characters())
    captions = Captions.encode(texts, vocabulary, config=DataConfig())
    assert captions[1] == ((BOS, 4, UNK, UNK, EOS),)


def test_captions_take_a_few_bytes_per_word():
    """A Python tuple takes 8 bytes per word plus 40; nested lists take far more."""
    caption = ["a", "dog", "runs", "over", "the", "green", "grass", "of", "a", "park"]
    tracemalloc.start()
    try:
        texts = SplitCaptions.collect([caption] * 5 for _ in range(2000))
        vocabulary = Vocabulary.from_counts(texts.counts(), min_count=1)
        captions = Captions.encode(texts, vocabulary, config=DataConfig())
        del texts
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(captions) == 2000
    # 12 ids of 2 bytes and 8 bytes for where the caption begins; of the image another 8.
    assert taken < 2000 * (5 * (12 * 2 + 8) + 8) * 1.1 + 20_000

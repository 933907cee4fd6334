"""Words that stand in for an image, against the probabilities that they are drawn with."""

from collections import Counter

import numpy as np
import pytest

from jaxcap.config import DataConfig
from jaxcap.data import simulated_words
from jaxcap.data.captions import Captions
from jaxcap.data.simulated_words import SimulatedWords
from jaxcap.model.recogniser.words import RecognisedWords
from jaxcap.text.vocabulary import Vocabulary

# "dog" in 1 of 30 records, "cat" in 3, "boat" in 16; "a" and "sits" cannot be recognised.
OTHERS = [[["a", "bird", "sits"]]] * 10
TEXTS = [*([["a", word, "sits"]] for word in ["dog", *["cat"] * 3, *["boat"] * 16]), *OTHERS]
VOCABULARY = Vocabulary.from_captions([c for of in TEXTS for c in of], min_count=1)
DOG, CAT, BOAT = (VOCABULARY.id_of(word) for word in ("dog", "cat", "boat"))


def words(texts=TEXTS, recognisable=(DOG, CAT, BOAT), count=20) -> SimulatedWords:
    captions = Captions.encode(texts, VOCABULARY, config=DataConfig())
    return SimulatedWords(captions, recognisable, count)


def drawn(simulated: SimulatedWords, number: int, times: int) -> list[dict[int, float]]:
    """Return the words of one record with their probabilities, in several draws."""
    found = simulated.draw(np.full(times, number), seed=3, step=4)
    return [
        {int(i): float(p) for i, p in zip(ids, probabilities, strict=True) if i}
        for ids, probabilities in zip(*found, strict=True)
    ]


def test_words_of_the_caption_are_thinned_and_given_probabilities():
    given = [each[DOG] for each in drawn(words(), 0, 4000) if DOG in each]
    assert len(given) / 4000 == pytest.approx(simulated_words.KEPT, abs=0.03)
    spread = simulated_words.TRUE_PROBABILITIES
    assert np.float32(spread.lowest) <= min(given) <= max(given) < spread.highest
    assert np.mean(given) == pytest.approx(mean(spread), abs=0.02)


def test_frequent_words_are_missed_less_often():
    given = [BOAT in each for each in drawn(words(recognisable=(BOAT,)), 19, 4000)]
    assert np.mean(given) == pytest.approx(simulated_words.KEPT_IF_FREQUENT, abs=0.03)


@pytest.mark.slow
def test_people_are_nearly_always_recognised_and_never_falsely():
    captions = Captions.encode(TEXTS, VOCABULARY, config=DataConfig())
    simulated = SimulatedWords(captions, (DOG, CAT, BOAT), people={DOG})
    given = [each[DOG] for each in drawn(simulated, 0, 4000) if DOG in each]
    assert len(given) / 4000 == pytest.approx(simulated_words.KEPT_PEOPLE, abs=0.01)
    assert min(given) >= np.float32(simulated_words.PEOPLE_PROBABILITIES.lowest)
    assert not any(DOG in each for each in drawn(simulated, 1, 1000))
    seen = RecognisedWords(np.full((1000, 1), DOG), np.full((1000, 1), 0.3, np.float32))
    found = simulated.draw(np.full(1000, 1), seed=3, step=4, of_image=seen)
    assert not np.isin(DOG, found.ids)


def mean(spread: simulated_words.Spread) -> float:
    """Return the integral of the drawn probability over u."""
    return spread.lowest + (spread.highest - spread.lowest) / (spread.exponent + 1)


@pytest.mark.slow
def test_false_words_fill_the_places_and_follow_the_square_root_of_their_frequency():
    draws = drawn(words(count=3), 0, 4000)
    false = Counter(word for each in draws for word in each if word != DOG)
    # Words are drawn for 2 or 3 places, with probabilities 1 : √3 : 4; repeats count once.
    share = np.array([1, 3**0.5, 4]) / (5 + 3**0.5)
    for word, p in ((CAT, share[1]), (BOAT, share[2])):
        kept = simulated_words.KEPT
        expected = 1 - kept * (1 - p) ** 2 - (1 - kept) * (1 - p) ** 3
        assert false[word] / 4000 == pytest.approx(expected, abs=0.03)
    spread = simulated_words.FALSE_PROBABILITIES
    given = [p for each in draws for word, p in each.items() if word != DOG]
    assert np.float32(spread.lowest) <= min(given) <= max(given) < spread.highest
    assert np.mean(given) == pytest.approx(mean(spread), abs=0.02)


def test_a_said_word_is_never_false():
    given = [each[BOAT] for each in drawn(words(), 19, 2000) if BOAT in each]
    assert min(given) >= np.float32(simulated_words.TRUE_PROBABILITIES.lowest)


def test_words_come_in_falling_order_and_the_least_probable_are_left_out():
    many = words([[["dog", "cat", "boat"]]], count=2)
    ids, probabilities = many.draw(np.zeros(300, int), seed=0, step=0)
    assert ids.shape == (300, 2)
    assert ids.dtype == np.int32
    assert (np.diff(probabilities, axis=1) <= 0).all()
    np.testing.assert_array_equal(ids == 0, probabilities == 0)
    assert all(a != b or a == 0 for a, b in ids)


def test_draws_depend_on_seed_step_and_row_alone():
    simulated, numbers = words(), np.array([0, 5, 9, 0])
    whole = simulated.draw(numbers, seed=1, step=7)
    share = simulated.draw(numbers[2:], seed=1, step=7, first_row=2)
    for one, other in zip(whole, share, strict=True):
        np.testing.assert_array_equal(one[2:], other)
    for seed, step in ((2, 7), (1, 8)):
        assert (simulated.draw(numbers, seed=seed, step=step)[1] != whole[1]).any()
    assert (whole[1][0] != whole[1][3]).any()


def test_captions_without_a_recognisable_word_have_false_words_alone():
    simulated = words([[["a", "sits"]], []])
    for number in (0, 1):
        found = {word for each in drawn(simulated, number, 200) for word in each}
        assert found == {DOG, CAT, BOAT}


def test_unsure_words_of_a_random_image_stay_and_its_sure_ones_go():
    simulated = words(recognisable=(DOG, CAT, BOAT))
    rows = 3000
    seen = RecognisedWords(
        np.tile(np.array([CAT, BOAT, DOG, 0], np.int32), (rows, 1)),
        np.tile(np.array([0.9, 0.3, 0.2, 0.0], np.float32), (rows, 1)),
    )
    found = simulated.draw(np.zeros(rows, int), seed=3, step=4, of_image=seen)
    each = [dict(zip(i.tolist(), p.tolist(), strict=True)) for i, p in zip(*found, strict=True)]
    assert sum(x.get(BOAT) == np.float32(0.3) for x in each) / rows > 0.3  # unless drawn as false
    assert all(x.get(BOAT) for x in each)
    assert not any(x.get(CAT) == np.float32(0.9) for x in each)
    # Words of the captions keep the probabilities that are drawn for them.
    assert not any(x.get(DOG) == np.float32(0.2) for x in each)
    drawn_beside = np.mean([CAT in x for x in each])
    share = 3**0.5 / (5 + 3**0.5)
    expected = 1 - np.exp(-simulated_words.FALSE_BESIDE_IMAGE * share)
    assert drawn_beside == pytest.approx(expected, abs=0.03)

"""The batches of training and evaluation, against known answers for every step."""

import dataclasses
import hashlib
import io

import jax
import numpy as np
import pytest
from PIL import Image

from jaxcap.config import DataConfig
from jaxcap.data.batch import Batch
from jaxcap.data.captions import Captions
from jaxcap.data.feature_cache import EncodedImages
from jaxcap.data.mixture import Turns
from jaxcap.data.pipeline import (
    TrainingSet,
    epoch_order,
    evaluation_batches,
    pad_tokens,
    share_of_batch,
    tokenised_captions,
    training_batches,
)
from jaxcap.data.simulated_words import SimulatedWords
from jaxcap.messages.errors import InputError
from jaxcap.text.vocabulary import BOS, EOS, PAD, UNK, Vocabulary

CONFIG = DataConfig(
    image_size=8,
    captions_per_image=3,
    min_count=1,
    length_buckets=(4, 6, 9),
    crop_min_scale=0.5,
    flip=True,
)
PLAIN = DataConfig(image_size=8, captions_per_image=3, length_buckets=(4, 6, 9))
IMAGES = 23


def record(number: int) -> dict:
    """Image `number` of grey `10 · number`, with a gradient so that crops and flips show."""
    pixels = np.full((12, 16, 3), 10 * number, np.uint8)
    pixels[..., 1] = np.arange(16) * 8 + np.arange(12)[:, None]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    captions = ["a dog", "a dog runs", "the dog runs on " + "and on " * (number % 4)]
    return {
        "image": file.getvalue(),
        "image_id": f"image-{number}",
        "captions": captions[: 1 + number % 3],
    }


@pytest.fixture(scope="module")
def source() -> list[dict]:
    return [record(number) for number in range(IMAGES)]


@pytest.fixture(scope="module")
def captions(source) -> Captions:
    texts = tokenised_captions(source)
    vocabulary = Vocabulary.from_captions((w for c in texts for w in c), min_count=1)
    return Captions.encode(texts, vocabulary, config=CONFIG)


def batches(
    source,
    captions,
    *,
    first=0,
    steps=12,
    seed=7,
    threads=2,
    config=CONFIG,
    size=5,
    shard=(0, 1),
):
    return list(
        training_batches(
            [TrainingSet(source, captions)],
            config=config,
            batch_size=size,
            seed=seed,
            first_step=first,
            steps=steps,
            threads=threads,
            shard=shard,
        )
    )


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert jax.tree.structure(one) == jax.tree.structure(other)
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_an_epoch_has_every_image_once_except_the_remainder(source, captions):
    epochs = np.split(np.stack([b.numbers for b in batches(source, captions)]), 3)
    for epoch in epochs:  # 4 steps of 5 images: 20 of 23
        assert len(set(epoch.ravel())) == 20
    left_out = [set(range(IMAGES)) - set(epoch.ravel()) for epoch in epochs]
    assert len({frozenset(each) for each in left_out}) > 1
    assert not np.array_equal(epochs[0], epochs[1])


def test_a_batch_holds_the_images_and_captions_of_its_numbers(source, captions):
    for batch in batches(source, captions, config=PLAIN):
        np.testing.assert_array_equal(batch.pixels[:, 0, 0, 0], 10 * batch.numbers)
        assert batch.valid.all()
        for number, rows in zip(batch.numbers.tolist(), batch.tokens, strict=True):
            expected = captions[number]
            found = [tuple(row[row != PAD].tolist()) for row in rows]
            # An image with fewer captions than N has rows of nothing but <pad>.
            assert found == [*expected, *[()] * (3 - len(expected))]


def test_the_seed_determines_the_batches(source, captions):
    first = batches(source, captions)
    assert_same(batches(source, captions), first)
    other = batches(source, captions, seed=8)
    assert any((a.numbers != b.numbers).any() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("first", [3, 4, 11])
def test_resuming_at_a_step_continues_the_same_batches(source, captions, threads, first):
    whole = batches(source, captions)
    assert_same(batches(source, captions, first=first, threads=threads), whole[first:])


def test_batches_end_after_the_last_step(source, captions):
    assert batches(source, captions, first=12, steps=12) == []


def test_augmentation_differs_between_epochs_and_stays_in_the_image(source, captions):
    seen: dict[int, list[np.ndarray]] = {}
    for batch in batches(source, captions):
        for number, image in zip(batch.numbers.tolist(), batch.pixels, strict=True):
            seen.setdefault(number, []).append(image)
            assert (image[..., 0] == 10 * number).all()  # its own grey, wherever it is cut
    views = next(v for v in seen.values() if len(v) == 3)
    assert not np.array_equal(views[0], views[1])
    # The gradient rises to the right; it falls in the mirrored half.
    rising = [image[0, -1, 1] > image[0, 0, 1] for v in seen.values() for image in v]
    assert 0.2 < np.mean(rising) < 0.8


def test_colour_jitter_comes_last(source, captions):
    jittered = dataclasses.replace(CONFIG, color_jitter=0.3)
    pairs = list(
        zip(
            batches(source, captions),
            batches(source, captions, config=jittered),
            strict=True,
        )
    )
    for plain, changed in pairs:
        np.testing.assert_array_equal(plain.numbers, changed.numbers)
        for before, after in zip(plain.pixels, changed.pixels, strict=True):
            # The same crop, mirrored or not: what was bright in it still is.
            assert np.corrcoef(before[..., 1].ravel(), after[..., 1].ravel())[0, 1] > 0.9
    assert any(not np.array_equal(a.pixels, b.pixels) for a, b in pairs)


def test_without_augmentation_an_image_is_always_the_same(source, captions):
    seen: dict[int, np.ndarray] = {}
    for batch in batches(source, captions, config=PLAIN):
        for number, image in zip(batch.numbers.tolist(), batch.pixels, strict=True):
            np.testing.assert_array_equal(seen.setdefault(number, image), image)


def test_a_batch_is_as_short_as_the_buckets_allow():
    def length(*captions: int) -> int:
        return pad_tokens([[(BOS,) * n] for n in captions], config=CONFIG).shape[-1]

    assert [length(3), length(4), length(5), length(4, 6), length(7), length(9)] == [
        *(4, 4, 6, 6, 9, 9)
    ]
    assert pad_tokens([[]], config=CONFIG).tolist() == [[[PAD] * 4] * 3]


def test_a_truncated_caption_has_no_eos():
    vocabulary = Vocabulary.from_captions([["on"]], min_count=1)
    texts = [[["on"] * 7, ["on"] * 8, ["on"] * 20]]
    tokens = Captions.encode(texts, vocabulary, config=CONFIG)[0]
    on = vocabulary.words.index("on")
    assert tokens[0] == (BOS, *[on] * 7, EOS)  # just fits
    assert tokens[1] == tokens[2] == (BOS, *[on] * 8)


def test_more_captions_than_n_are_left_out_and_rare_words_become_unk():
    vocabulary = Vocabulary.from_captions([["a"]], min_count=1)
    tokens = Captions.encode([[["a"], ["b"], ["a"], ["a"]]], vocabulary, config=CONFIG)[0]
    assert [t[1] for t in tokens] == [vocabulary.words.index("a"), UNK, vocabulary.words.index("a")]


def test_captions_in_other_scripts_and_captions_without_a_word():
    texts = tokenised_captions([{"captions": ["Ein Café über 東京", "犬 !", "...", ""]}])
    assert list(texts) == [[["ein", "café", "über", "東京"], ["犬"]]]
    vocabulary = Vocabulary.from_captions(texts[0], min_count=1)
    ids = Captions.encode(texts, vocabulary, config=CONFIG)[0]
    assert [vocabulary.decode(i) for i in ids] == ["ein café über 東京", "犬"]


def test_grouping_by_length_saves_padding_and_loses_no_image():
    rng = np.random.default_rng(0)
    longest = rng.geometric(0.15, size=4096) + 8
    order = epoch_order(longest, batch_size=32, seed=0, epoch=3)
    assert sorted(order.ravel()) == list(range(4096))

    def padded(order: np.ndarray) -> int:
        return int((longest[order].max(axis=1) * 32).sum())

    shuffled = rng.permutation(4096).reshape(-1, 32)
    waste = padded(order) - longest.sum()
    assert waste < 0.3 * (padded(shuffled) - longest.sum())
    # Lengths don't rise or fall with the steps: grouped, but still shuffled.
    means = longest[order].mean(axis=1)
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.25


def test_with_one_bucket_the_order_ignores_lengths(source, captions):
    # Given to other images, the captions regroup the batches only where there are buckets.
    texts = tokenised_captions(source)
    vocabulary = Vocabulary.from_captions((w for c in texts for w in c), min_count=1)
    others = Captions.encode(texts[::-1], vocabulary, config=CONFIG)
    one = dataclasses.replace(CONFIG, length_buckets=(9,))
    for config, same in [(one, True), (CONFIG, False)]:
        found, other = (
            np.stack([b.numbers for b in batches(source, c, steps=4, config=config)])
            for c in (captions, others)
        )
        assert (found == other).all() == same


@pytest.mark.parametrize(("size", "expected"), [(5, [5, 5, 5, 5, 3]), (23, [23]), (40, [23])])
def test_evaluation_has_every_image_once_in_order(source, size, expected):
    found = list(evaluation_batches(source, config=CONFIG, batch_size=size))
    assert [b.valid.sum() for b in found] == expected
    assert all(b.pixels.shape == (size, 8, 8, 3) for b in found)
    numbers = np.concatenate([b.numbers[b.valid] for b in found])
    np.testing.assert_array_equal(numbers, np.arange(IMAGES))
    for batch in found:  # valid images come first; no augmentation
        assert (np.diff(batch.valid.astype(int)) <= 0).all()
        np.testing.assert_array_equal(batch.pixels[:, 0, 0, 0], 10 * batch.numbers)


def test_an_image_that_cannot_be_decoded_is_named(source, captions):
    broken = [{**each, "image": each["image"][:40]} for each in source]
    with pytest.raises(InputError, match=r"image-\d+: "):
        batches(broken, captions)
    with pytest.raises(InputError, match=r"image-0: "):
        list(evaluation_batches(broken, config=CONFIG, batch_size=4))


def test_leaving_the_iterator_early_ends_its_threads(source, captions):
    iterator = training_batches(
        [TrainingSet(source, captions)],
        config=CONFIG,
        batch_size=5,
        seed=0,
        first_step=0,
        steps=10**6,
    )
    assert next(iterator).numbers.shape == (5,)
    iterator.close()
    assert next(iterator, None) is None


# The batches of the tests above, as they were before captions became flat arrays and batches were
# shared among hosts: what was trained then must come out the same.
BEFORE = "6e6f0fe8107c1e9e10accbe65ab490cde838a53063d376c1abd968ada5aea28d"


def test_batches_equal_those_of_earlier_versions(source, captions):
    digest = hashlib.sha256()
    for batch in batches(source, captions):
        for array in (batch.tokens, batch.numbers, batch.pixels):
            digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    assert digest.hexdigest() == BEFORE


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("from_features", [False, True])
def test_the_shares_of_all_hosts_form_the_batch(source, captions, hosts, from_features):
    class Counting(list):
        read = 0

        def __getitem__(self, index):
            Counting.read += 1
            return super().__getitem__(index)

    rows = np.arange(IMAGES * 2.0).reshape(IMAGES, 2, 1)
    features = EncodedImages(rows) if from_features else None
    options = {"config": CONFIG, "batch_size": 8, "seed": 3, "first_step": 1, "steps": 6}
    whole = list(training_batches([TrainingSet(source, captions, features)], **options))
    shares = [
        list(
            training_batches(
                [TrainingSet(Counting(source), captions, features)], shard=(host, hosts), **options
            )
        )
        for host in range(hosts)
    ]
    together = [
        jax.tree.map(lambda *arrays: np.concatenate(arrays), *step)
        for step in zip(*shares, strict=True)
    ]
    assert_same(together, whole)
    for step in zip(*shares, strict=True):
        numbers = [set(batch.numbers.tolist()) for batch in step]
        assert sum(map(len, numbers)) == len(set.union(*numbers)) == 8
    # No host reads what another one brings.
    assert Counting.read == (0 if from_features else 8 * 5)


def test_all_hosts_pad_to_the_same_length(source, captions):
    shares = [batches(source, captions, size=4, shard=(host, 4)) for host in range(4)]
    for step in zip(*shares, strict=True):
        assert len({batch.tokens.shape for batch in step}) == 1
        needed = [(batch.tokens != PAD).any(axis=(0, 1)).sum() for batch in step]
        assert max(needed) > min(needed) or len(set(needed)) == 1
    assert any(
        len({(batch.tokens != PAD).any(axis=(0, 1)).sum() for batch in step}) > 1
        for step in zip(*shares, strict=True)
    )


def test_unequal_shares_are_refused(source, captions):
    with pytest.raises(InputError, match=r"batch_size is 10, but 4 hosts .* expected 8 or 12, or"):
        batches(source, captions, size=10, shard=(0, 4))
    with pytest.raises(InputError, match=r"batch_size is 3, but 4 hosts .* expected 4, or"):
        share_of_batch(3, (0, 4))
    with pytest.raises(InputError, match="shard 2 of 2: expected an index from 0 to 1"):
        share_of_batch(4, (2, 2))
    assert [share_of_batch(8, (host, 4)) for host in range(4)] == [
        *(slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8))
    ]


# ---- several data sets -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sets(source, captions) -> list[TrainingSet]:
    """Two data sets of images, and one of text alone, with 23, 12 and 17 records."""
    words = SimulatedWords(Captions(captions.rows.part(0, 17)), recognisable=(4, 5, 6), count=3)
    return [
        TrainingSet(source, captions),
        TrainingSet(source[:12], Captions(captions.rows.part(0, 12)), first_number=23),
        TrainingSet(source[:17], words.captions, words=words, first_number=35),
    ]


def mixed(sets, turns, *, first=0, steps=12, shard=(0, 1), size=4, random_images=False):
    return list(
        training_batches(
            sets,
            config=dataclasses.replace(CONFIG, random_images=random_images),
            batch_size=size,
            seed=7,
            first_step=first,
            steps=steps,
            turns=turns,
            shard=shard,
        )
    )


HALVES = Turns((0.5, 0.25, 0.25), (0, 0, 0))


def set_of(batch: Batch) -> int:
    """Return the data set of a batch; all its images must belong to it."""
    (found,) = {int(np.searchsorted([23, 35], number, side="right")) for number in batch.numbers}
    return found


def test_each_batch_comes_from_one_data_set_in_passes_of_its_own(sets):
    found = mixed(sets, HALVES, steps=40)
    assert [set_of(batch) for batch in found[:8]] == [0, 1, 2, 0, 0, 1, 2, 0]
    for i, (size, each) in enumerate(zip((23, 12, 17), sets, strict=True)):
        numbers = [b.numbers - each.first_number for b in found if set_of(b) == i]
        for epoch in range(len(numbers) // (size // 4)):
            of_epoch = np.concatenate(numbers[epoch * (size // 4) :][: size // 4])
            assert len(set(of_epoch.tolist())) == len(of_epoch)
        for batch in (b for b in found if set_of(b) == i):
            for number, rows in zip(batch.numbers - each.first_number, batch.tokens, strict=True):
                longest = each.captions[int(number)][0]
                assert tuple(rows[0][rows[0] != PAD].tolist()) == longest
    # Equal data sets are still shuffled differently.
    one, other = mixed([sets[0]] * 2, Turns((0.5, 0.5), (0, 0)), steps=2)
    assert (one.numbers != other.numbers).any()


def test_text_comes_with_words_in_place_of_images(sets):
    for batch in mixed(sets, HALVES):
        if set_of(batch) == 2:
            assert batch.pixels is None
            assert batch.features is None
            assert batch.words.ids.shape == batch.words.probabilities.shape == (4, 3)
        else:
            assert batch.words is None
            assert batch.pixels.shape == (4, 8, 8, 3)


def test_text_may_come_with_random_images(sets):
    """The words and captions are those of the text; the image is any that the steps read."""
    plain, shown = mixed(sets, HALVES), mixed(sets, HALVES, random_images=True)
    seen: set[bytes] = set()
    for without, batch in zip(plain, shown, strict=True):
        if set_of(batch) < 2:
            assert_same([batch], [without])
            continue
        assert_same([batch._replace(pixels=None)], [without])
        seen |= {image.tobytes() for image in batch.pixels}
    assert len(seen) > 6
    # Each host reads its own part of the same images, whole or resumed.
    shares = [mixed(sets, HALVES, shard=(host, 2), random_images=True) for host in range(2)]
    for batch, parts in zip(shown, zip(*shares, strict=True), strict=True):
        np.testing.assert_array_equal(batch.pixels, np.concatenate([p.pixels for p in parts]))
    assert_same(mixed(sets, HALVES, first=2, random_images=True), shown[2:])


def test_a_data_set_alone_is_read_as_without_the_others(sets, source, captions):
    alone = batches(source, captions, size=4)
    assert_same(mixed(sets, Turns((1.0, 0.0, 0.0), (0, 0, 0))), alone)


def test_mixed_batches_resume_and_are_shared_exactly(sets):
    whole = mixed(sets, HALVES)
    for first in (1, 6, 11):
        assert_same(mixed(sets, HALVES, first=first), whole[first:])
    shares = [mixed(sets, HALVES, shard=(host, 2)) for host in range(2)]
    together = [
        jax.tree.map(lambda *arrays: np.concatenate(arrays), *step)
        for step in zip(*shares, strict=True)
    ]
    assert_same(together, whole)


def test_a_stage_with_other_weights_reads_on(sets):
    first = mixed(sets, HALVES, steps=8)
    turns = HALVES.followed_by((1.0, 0.0, 0.0), stop=8)
    second = mixed(sets, turns, first=8, steps=9)
    numbers = np.concatenate([b.numbers for b in [*first, *second] if set_of(b) == 0])
    assert len(numbers) == len(set(numbers.tolist())) == 20  # one pass, over the border

"""From options to a search: what is refused, and that the captions keep what the options say."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcap.captioning.decoding import (
    Decoded,
    ImageInput,
    check_search,
    create_decode,
    describe,
    image_keys,
    same_vocabulary,
)
from jaxcap.config import (
    Config,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    RecognitionConfig,
    SearchConfig,
    check_heeded,
    validate,
)
from jaxcap.messages.errors import InputError
from jaxcap.model.captioner import Captioner, create_captioner, init_variables
from jaxcap.model.recogniser.words import RecognisedWords
from jaxcap.search import SearchResult
from jaxcap.text.vocabulary import BOS, EOS, PAD, SPECIALS, Vocabulary

WORDS = ("a", "dog", "dogs", "runs", "on", "grass", "the", "with")
VOCABULARY = Vocabulary(SPECIALS + WORDS)
DOG, GRASS = {"dog", "dogs"}, {"grass"}
SIZE = 32
Model = tuple[Captioner, dict[str, Any]]


@pytest.fixture(scope="module")
def models() -> list[Model]:
    """Two decoders, one of them without attention, of wide weights: their captions differ."""
    made = []
    for seed, name in enumerate(("attention", "lstm")):
        config = Config(
            data=DataConfig(image_size=SIZE),
            encoder=EncoderConfig(name="resnet_small"),
            decoder=DecoderConfig(
                name=name,  # type: ignore[arg-type]
                hidden_size=16,
                embedding_size=16,
                attention_size=16,
                scoring="dot",
            ),
        )
        model = create_captioner(config, len(VOCABULARY))
        variables = init_variables(model, jax.random.key(seed), image_size=SIZE)
        output = variables["params"]["decoder"]["output"]
        output["kernel"] = 8.0 * output["kernel"]
        made.append((model, variables))
    return made


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8))


Search = Callable[..., SearchResult]


@pytest.fixture(scope="module")
def search(models: list[Model], images: jax.Array) -> Search:
    # Encoded once: with the encoder, the program of each search takes longer to compile.
    encode = jax.jit(
        lambda model, variables: model.apply(variables, images, method="encode"), static_argnums=0
    )
    features = [encode(*each) for each in models]

    @functools.cache
    def run(number: int = 0, **options: Any) -> SearchResult:
        model, variables = models[number]
        config = SearchConfig(**{"max_length": 6, **options})
        given = ImageInput(features=features[number])
        return jax.device_get(
            create_decode([model], config, VOCABULARY)((variables,), (given,)).captions
        )

    return run


def _texts(result: SearchResult) -> list[list[str]]:
    """Of each image the captions that exist, which end with `<eos>`."""
    exists = np.asarray(result.exists)
    ended = (np.asarray(result.tokens) == EOS).sum(axis=-1)
    np.testing.assert_array_equal(ended, exists)
    return [
        [VOCABULARY.decode(row.tolist()) for row in rows[there]]
        for rows, there in zip(np.asarray(result.tokens), exists, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("method", ["beam", "diverse", "greedy", "sample"])
def test_log_probabilities_are_those_of_teacher_forcing(
    method: str, number: int, models: list[Model], images: jax.Array, search: Search
) -> None:
    """And the attention, where there is any: the search adds nothing of its own."""
    result = search(number, method=method, beam_size=3, samples=4)
    assert result.tokens.shape == (3, {"greedy": 1, "sample": 4}.get(method, 3), 7)
    model, variables = models[number]
    first = np.full((*result.tokens.shape[:2], 1), BOS, np.int32)
    read = model.apply(
        variables, images, jnp.asarray(np.concatenate([first, result.tokens[..., :-1]], -1))
    )
    log_probs = jax.nn.log_softmax(read.logits)
    expected = np.take_along_axis(np.asarray(log_probs), result.tokens[..., None], -1)[..., 0]
    written = result.tokens != PAD
    np.testing.assert_allclose(result.word_log_probs, np.where(written, expected, 0.0), atol=1e-4)
    np.testing.assert_allclose(
        result.weights, np.where(written[..., None], read.weights, 0.0), atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["beam", "diverse", "greedy", "sample"])
@pytest.mark.parametrize("number", [0, 1])
def test_captions_keep_their_options(number: int, method: str, search: Search) -> None:
    options = {"method": method, "beam_size": 3, "samples": 8, "temperature": 2.0}
    plain = _texts(search(number, **options))
    free = [text.split() for texts in plain for text in texts]
    assert len(free) == 3 * {"greedy": 1, "sample": 8}.get(method, 3)
    assert all(len(words) <= 6 for words in free)
    ruled = search(
        number,
        **options,
        min_length=4,
        banned_words=("dog", "the"),
        no_repetition=True,
        no_repeated_ngram=2,
        no_function_word_end=True,
    )
    for texts in _texts(ruled):
        assert texts
        for text in texts:
            words = text.split()
            assert 4 <= len(words) <= 6
            assert not {"dog", "the"} & set(words)
            pairs = list(itertools.pairwise(words))
            assert len(set(pairs)) == len(pairs)
            assert all(one != other for one, other in pairs)
            assert words[-1] not in ("a", "with")


@pytest.mark.slow
def test_required_words_are_in_the_captions(search: Search) -> None:
    result = search(required_words=("dog|dogs", "grass"))
    assert np.all(result.satisfied)
    for texts in _texts(result):
        assert len(texts) == 3
        for text in texts:
            assert {"dog", "dogs"} & set(text.split())
            assert "grass" in text.split()


@pytest.fixture(scope="module")
def guided(images: jax.Array) -> Callable[..., Decoded]:
    """Search with words given in place of those that a recogniser would find."""
    config = Config(
        data=DataConfig(image_size=SIZE),
        encoder=EncoderConfig(name="resnet_small", trainable=False),
        recognition=RecognitionConfig(words=3),
        decoder=DecoderConfig(hidden_size=16, embedding_size=16, attention_size=16, scoring="dot"),
    )
    model = create_captioner(config, len(VOCABULARY), words=VOCABULARY.words)
    variables = init_variables(model, jax.random.key(0), image_size=SIZE)
    features = model.apply(variables, images, method="encode")
    found = [{"dog": 0.9, "grass": 0.8}, {"dogs": 0.7, "dog": 0.6, "grass": 0.5}, {"grass": 0.4}]
    ids = np.zeros((3, 3), np.int32)
    probabilities = np.zeros((3, 3), np.float32)
    for row, words in enumerate(found):
        ids[row, : len(words)] = [VOCABULARY.id_of(word) for word in words]
        probabilities[row, : len(words)] = list(words.values())
    given = ImageInput(features=features, words=RecognisedWords(ids, probabilities))

    @functools.cache
    def run(**options: Any) -> Decoded:
        search = SearchConfig(max_length=6, **options)
        return jax.device_get(create_decode([model], search, VOCABULARY)((variables,), (given,)))

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[DOG, GRASS], [DOG, GRASS], []]),
        ({"guide_words": 1}, [[DOG], [DOG], []]),
        ({"guide": 0.6}, [[DOG, GRASS], [DOG], []]),
        ({"guide": 0.4}, [[DOG, GRASS], [DOG, GRASS], [GRASS]]),
        # A word that the user bans or requires is not for the recogniser to require.
        ({"banned_words": ("dogs",)}, [[GRASS], [GRASS], []]),
        (
            {"required_words": ("with", "dog"), "guide_words": 4},
            [[{"with"}, {"dog"}, GRASS], [{"with"}, {"dog"}, GRASS], [{"with"}, {"dog"}]],
        ),
    ],
)
def test_recognised_words_are_in_the_captions_of_their_image(
    options: dict[str, Any], expected: list[list[set[str]]], guided: Callable[..., Decoded]
) -> None:
    result = guided(**{"guide": 0.5, **options})
    assert np.all(result.captions.satisfied)
    for texts, things in zip(_texts(result.captions), expected, strict=True):
        assert len(texts) == 3
        assert all(thing & set(text.split()) for text in texts for thing in things)
    free = guided(**{name: options[name] for name in options if name.endswith("ed_words")})
    for row, things in enumerate(expected):
        if not things:
            np.testing.assert_array_equal(result.captions.tokens[row], free.captions.tokens[row])


@pytest.mark.slow
def test_a_bonus_is_all_that_recognised_words_are_worth(guided: Callable[..., Decoded]) -> None:
    required, rich, poor = (
        guided(guide=0.5, **options).captions
        for options in ({}, {"guide_bonus": 1e4}, {"guide_bonus": 1e-4})
    )
    np.testing.assert_array_equal(rich.tokens[:, 0], required.tokens[:, 0])
    assert np.all(poor.scores[:, 0] >= required.scores[:, 0])
    assert np.any(poor.scores[:, 0] > required.scores[:, 0])
    # What the user requires is no wish.
    both = guided(guide=0.5, guide_bonus=1e-4, required_words=("with",))
    assert all("with" in text.split() for texts in _texts(both.captions) for text in texts)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["beam", "greedy"])
def test_unrecognised_things_are_not_said_if_they_cost_much(
    method: str, guided: Callable[..., Decoded]
) -> None:
    things = DOG | GRASS | {"cat"}
    seen = [DOG | GRASS, DOG | GRASS, GRASS]

    def false(**options: Any) -> list[set[str]]:
        texts = _texts(guided(method=method, **options).captions)
        return [set(" ".join(t).split()) & things - s for t, s in zip(texts, seen, strict=True)]

    assert any(false())
    assert not any(false(unrecognised_penalty=1e4))


@pytest.mark.slow
def test_no_more_is_required_than_a_caption_can_hold(guided: Callable[..., Decoded]) -> None:
    assert np.all(guided(guide=0.5, required_words=tuple(WORDS[:4])).captions.satisfied)


@pytest.mark.slow
def test_what_the_model_saw_is_returned(guided: Callable[..., Decoded]) -> None:
    found = guided()
    assert found.words.ids[0].tolist() == [VOCABULARY.id_of("dog"), VOCABULARY.id_of("grass"), 0]
    assert found.features.shape == (3, 128)


@pytest.mark.slow
def test_fewer_captions_are_the_best_of_all(search: Search) -> None:
    three, one = search(beam_size=3), search(beam_size=3, n_best=1)
    assert [texts[:1] for texts in _texts(three)] == _texts(one)
    assert one.weights.shape == (3, 1, 7, *three.weights.shape[3:])


@pytest.mark.slow
@pytest.mark.parametrize("normalisation", ["none", "average", "exponent", "gnmt"])
def test_scores_are_normalised_as_asked(normalisation: str, search: Search) -> None:
    result = search(length_normalisation=normalisation, length_penalty=0.5)
    lengths = (result.tokens != PAD).sum(axis=-1)
    divisor = {
        "none": 1.0,
        "average": lengths,
        "exponent": np.sqrt(lengths),
        "gnmt": np.sqrt((5 + lengths) / 6),
    }[normalisation]
    expected = result.word_log_probs.sum(axis=-1) / divisor
    np.testing.assert_allclose(result.scores, expected, rtol=1e-4)


@pytest.mark.slow
def test_samples_of_an_image_depend_on_it_and_the_seed_alone(
    models: list[Model], images: jax.Array
) -> None:
    model, variables = models[0]
    config = SearchConfig(method="sample", samples=6, max_length=6)

    def sampled(decode: Any, *rows: int) -> np.ndarray:
        given = ImageInput(images[np.array(rows)])
        return np.asarray(decode((variables,), (given,)).captions.tokens)

    decode = create_decode([model], config, VOCABULARY)
    together = sampled(decode, 0, 1, 2)
    rows = [2, 0, 0, 1, 2]
    np.testing.assert_array_equal(sampled(decode, *rows), together[rows])
    for row in range(3):
        np.testing.assert_array_equal(sampled(decode, row), together[row : row + 1])
    other = create_decode([model], replace(config, seed=1), VOCABULARY)
    assert np.any(sampled(other, 0, 1, 2) != together)


def test_keys_of_images_that_differ_anywhere_differ() -> None:
    image = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3), np.uint8)
    images = np.repeat(image, 8 * 8 * 3, axis=0)
    for place, one in enumerate(images.reshape(len(images), -1)):
        one[place] ^= 1
    both = np.concatenate([image, images])
    features = both.reshape(len(both), 8, 24).astype(np.float32)
    for given in (ImageInput(both), ImageInput(features=features)):
        keys = np.asarray(jax.random.key_data(image_keys(jax.random.key(0), given)))
        assert len(np.unique(keys, axis=0)) == len(both)
        backward = jax.tree.map(lambda x: x[::-1], given)
        again = image_keys(jax.random.key(0), backward)
        np.testing.assert_array_equal(jax.random.key_data(again)[::-1], keys)


@pytest.mark.slow
def test_an_ensemble_averages_probabilities_whatever_its_models(
    models: list[Model], images: jax.Array, search: Search
) -> None:
    (first, of_first), (second, of_second) = models
    config = SearchConfig(max_length=6)
    decode = create_decode([first, second], config, VOCABULARY)
    result = decode((of_first, of_second), (ImageInput(images), ImageInput(images))).captions
    _texts(result)
    assert result.weights.shape[-1] > 0  # the first one's
    before = jnp.concatenate(
        [jnp.full((*result.tokens.shape[:2], 1), BOS), result.tokens[..., :-1]], -1
    )
    p = np.mean([jax.nn.softmax(m.apply(v, images, before).logits) for m, v in models], axis=0)
    expected = np.take_along_axis(np.log(p), np.asarray(result.tokens)[..., None], -1)[..., 0]
    written = np.asarray(result.tokens) != PAD
    np.testing.assert_allclose(result.word_log_probs, np.where(written, expected, 0.0), atol=1e-4)
    twice = create_decode([first, first], config, VOCABULARY)
    same = twice((of_first, of_first), (ImageInput(images), ImageInput(images)))
    np.testing.assert_array_equal(same.captions.tokens, search().tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam size 0: give 1"),
        ({"beam_size": 10}, r"beam size 10: give 1 \(greedy\) to 9"),
        ({"required_words": ("dgo",)}, r"required_words: .*no 'dgo'.* Did you mean 'dog'"),
        ({"required_words": ("dog|cta",)}, "required_words: .*no 'cta'"),
        ({"required_words": ("a dog",)}, "'a dog' is not one word but 2"),
        ({"required_words": ("<unk>",)}, "required_words"),
        ({"required_words": ("dog|",)}, "'' is not one word but 0"),
        ({"banned_words": ("gras",)}, "banned_words: .*no 'gras'.* Did you mean 'grass'"),
        ({"banned_words": ("dog",), "required_words": ("dog",)}, "both required and banned"),
        ({"banned_words": ("dog", "dogs"), "required_words": ("dog|dogs",)}, "required and ban"),
        ({"max_length": 1, "required_words": ("a", "dog")}, "max_length is 1"),
        ({"required_words": tuple(WORDS[:5])}, "at most 4"),
        ({"method": "sample", "required_words": ("dog",)}, "needs search.method 'beam'"),
        ({"method": "diverse", "beam_size": 4, "groups": 3}, "does not divide"),
        ({"guide": 0.5}, r"search.guide is 0.5, but this model does not recognise words"),
        ({"unrecognised_penalty": 3.0}, "unrecognised_penalty is 3, but this model does not"),
        ({"guide": 1.5}, "guide is 1.5"),
        ({"min_length": 7, "max_length": 6}, "min_length is 7"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": 1e-40}, "temperature is 1e-40; it must be at least 0.001 "),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_cannot_be_searched_for_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_search(SearchConfig(**options), VOCABULARY)


def test_a_guide_that_a_model_was_published_with_leaves_other_methods_alone() -> None:
    check_search(SearchConfig(method="greedy", guide=0.5), VOCABULARY)
    with pytest.raises(InputError, match=r"search.guide has no effect with .*'greedy'"):
        check_heeded({"guide"}, SearchConfig(method="greedy", guide=0.5))
    for option in ("guide_words", "guide_bonus"):
        with pytest.raises(InputError, match=rf"{option} has no effect without search.guide"):
            check_heeded({option}, SearchConfig(**{option: 1}))


def test_words_are_taken_as_people_write_them() -> None:
    check_search(SearchConfig(required_words=("Dog",), banned_words=("GRASS",)), VOCABULARY)


def test_vocabularies_of_an_ensemble_are_the_same() -> None:
    assert same_vocabulary({"one": VOCABULARY, "two": VOCABULARY}) is VOCABULARY
    more = Vocabulary((*VOCABULARY.words, "cat"))
    other = Vocabulary(VOCABULARY.words[:-2] + VOCABULARY.words[:-3:-1])
    for found, message in (
        (more, r"two and one have different vocabularies \(13 and 12 entries\): 'cat'"),
        (Vocabulary(VOCABULARY.words[:-1]), "'with' and 0 more are in the latter only"),
        (other, "another order"),
    ):
        with pytest.raises(InputError, match=message):
            same_vocabulary({"one": VOCABULARY, "two": found})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "beam 3, length penalty 1, at most 24 words"),
        (
            {"method": "diverse", "beam_size": 6, "length_normalisation": "gnmt", "min_length": 2},
            "beam 6 in 3 groups, diversity 0.5, GNMT length penalty 1, "
            "at least 2 and at most 24 words",
        ),
        (
            {
                "method": "sample",
                "top_k": 9,
                "top_p": 0.5,
                "no_repeated_ngram": 3,
                "no_repeated_content": True,
            },
            "5 captions sampled with seed 0 at temperature 1 of the 9 likeliest words "
            "of those that come to 0.5, at most 24 words, no 3 words twice, "
            "no content word twice",
        ),
        (
            {"method": "greedy", "banned_words": ("dog", "a")},
            "greedy, at most 24 words, without dog, a",
        ),
        (
            {"guide": 0.6, "guide_words": 1},
            "beam 3, length penalty 1, at most 24 words, "
            "guided by recognised words (p ≥ 0.6, at most 1)",
        ),
        (
            {"guide": 0.6, "guide_bonus": 0.3, "unrecognised_penalty": 2.5},
            "beam 3, length penalty 1, at most 24 words, "
            "guided by recognised words (p ≥ 0.6, at most 2, bonus 0.3), "
            "unrecognised things cost 2.5",
        ),
    ],
)
def test_a_protocol_names_what_was_asked_for(options: dict[str, Any], text: str) -> None:
    config = SearchConfig(**options)
    validate(replace(Config(), search=config))
    assert describe(config) == text

"""From models and options to one jitted function: images in, captions out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, UInt8, UInt32

from jaxcap.config import MAX_REQUIRED, Config, SearchConfig, validate
from jaxcap.messages.errors import InputError, counted, did_you_mean
from jaxcap.model.captioner import Captioner
from jaxcap.model.recogniser.recogniser import Recognisable
from jaxcap.model.recogniser.words import (
    RecognisedWords,
    word_groups,
    words_for_animals,
    words_for_people,
)
from jaxcap.search import (
    Processor,
    Ranking,
    SearchResult,
    StepFunction,
    average,
    beam_search,
    constrained_beam_search,
    diverse_beam_search,
    greedy_search,
    length_between,
    processors,
    sample,
)
from jaxcap.search.guiding import costs, doubts, guide_requirements, word_forms
from jaxcap.text.function_words import ENGLISH_FUNCTION_WORDS
from jaxcap.text.vocabulary import PAD, SPECIALS, UNK, Vocabulary


class ImageInput(NamedTuple):
    """A batch of images for one model; exactly one of the two is given.

    Attributes:
      pixels: decoded images in the model's size, not yet normalised.
      features: the output of the model's encoder, computed earlier.
      words: recognised words: computed earlier with the features, or to be read in place of those
        found in the pixels.
    """

    pixels: UInt8[Array | np.ndarray, "B S S 3"] | None = None
    features: Float[Array | np.ndarray, "B P D"] | None = None
    words: RecognisedWords | None = None


class Encoded(NamedTuple):
    """The decoder's input for a batch of images.

    Attributes:
      features: the output of the encoder.
      words: recognised words; None if the model reads none.
    """

    features: Float[Array, "B P D"]
    words: RecognisedWords | None = None


class Decoded(NamedTuple):
    """The captions of a batch of images, with recognised words and mean features.

    Attributes:
      captions: N captions of each image.
      words: the recognised words that guide the search; K is 0 without a recogniser.
      features: the first model's features, their mean over the positions.
    """

    captions: SearchResult
    words: RecognisedWords
    features: Float[Array, "B D"]

    @classmethod
    def from_leaves(cls, *leaves: Any) -> Decoded:
        """Build it from its arrays in their order."""
        fields = len(SearchResult._fields)
        words = RecognisedWords(*leaves[fields:-1])
        return cls(SearchResult(*leaves[:fields]), words, leaves[-1])


Decode = Callable[[tuple[Any, ...], tuple[ImageInput, ...]], Decoded]
"""`decode(variables, images)`: the variables of each model, and the same images for each model."""


def create_decode(
    models: Sequence[Captioner], config: SearchConfig, vocabulary: Vocabulary
) -> Decode:
    """Return the jitted search that `config` describes.

    Several models over the same vocabulary form an ensemble: the search uses the mean of their
    probabilities and returns the first model's attention weights. The first model that recognises
    words guides the search.

    Raises:
      InputError: see `check_search`.
    """
    check_search(config, vocabulary, recognises=any(model.recogniser for model in models))
    recogniser = next((model.recogniser for model in models if model.recogniser), None)
    things = _detected_things(recogniser.words, vocabulary) if recogniser else None
    search = _create_search(config, vocabulary, things)

    def decode(variables: tuple[Any, ...], images: tuple[ImageInput, ...]) -> Decoded:
        encoded = [encode(*each) for each in zip(models, variables, images, strict=True)]
        steps, carries = zip(
            *map(start_search, models, variables, encoded),
            strict=True,
        )
        features = encoded[0].features
        none = jnp.zeros((features.shape[0], 0))
        words = next(
            (each.words for each in encoded if each.words is not None),
            RecognisedWords(none.astype(jnp.int32), none),
        )
        captions = search(average(steps), carries, images[0], words)
        return Decoded(captions, words, features.mean(axis=1))

    return jax.jit(decode)


def encode(model: Captioner, variables: Any, images: ImageInput) -> Encoded:
    """Return features and words of the images; those computed earlier pass through unchanged.

    Raises:
      TypeError: both or neither of pixels and features are given.
    """
    if (images.pixels is None) == (images.features is None):
        raise TypeError("ImageInput: give exactly one of pixels and features.")
    if images.features is not None:
        return Encoded(jnp.asarray(images.features), images.words)
    encoded: Any = model.apply(variables, images.pixels, method="encode_and_recognise")
    features, words = encoded
    return Encoded(features, words if images.words is None else images.words)


def start_search(model: Captioner, variables: Any, encoded: Encoded) -> tuple[StepFunction, Any]:
    """Return the step function and the first carry for a search over captions of `encoded`."""
    carry, context = model.apply(variables, *encoded, method="start")

    def step(carry: Any, tokens: Any) -> Any:
        return model.apply(variables, carry, tokens, context, method="step")

    return step, carry


def _create_search(
    config: SearchConfig, vocabulary: Vocabulary, things: Int[np.ndarray, " V"] | None
) -> Callable[[StepFunction, Any, ImageInput, RecognisedWords], SearchResult]:
    """Create the configured search, `search(step, carry, images, words)`."""
    rules = _rules(config, vocabulary)
    ranking = Ranking(
        n_best=config.n_best or None,
        normalisation=config.length_normalisation,
        length_penalty=config.length_penalty,
    )
    required = _create_requirements(config, vocabulary)

    def search(
        step: StepFunction, carry: Any, images: ImageInput, words: RecognisedWords
    ) -> SearchResult:
        common: dict[str, Any] = {
            "max_length": config.max_length + 1,  # room for <eos>
            "processors": rules,
        }
        if config.unrecognised_penalty and things is not None:
            animals = _are_animals(things, vocabulary)
            reasons = doubts(*map(jnp.asarray, (things, animals, *words)))
            common["processors"] = (costs(config.unrecognised_penalty * reasons), *rules)
        beams = {"beam_size": config.beam_size, "ranking": ranking, **common}
        match config.method:
            case "greedy":
                return greedy_search(step, carry, **common)
            case "sample":
                return sample(
                    step,
                    carry,
                    image_keys(jax.random.key(config.seed), images),
                    n=config.samples,
                    temperature=config.temperature,
                    top_k=config.top_k or None,
                    top_p=config.top_p,
                    **common,
                )
            case "diverse":
                return diverse_beam_search(
                    step, carry, groups=config.groups, diversity=config.diversity, **beams
                )
            case "beam" if config.required_words or config.guide:
                partial = -(-config.beam_size // 2) if config.guide else None
                sets = required(words)
                wishes = sets.shape[1] - len(config.required_words)
                return constrained_beam_search(
                    step,
                    carry,
                    sets,
                    partial_beam_size=partial,
                    optional=wishes if config.guide_bonus else 0,
                    bonus=config.guide_bonus,
                    **beams,
                )
            case "beam":
                return beam_search(step, carry, **beams)

    return search


def _rules(config: SearchConfig, vocabulary: Vocabulary) -> tuple[Processor, ...]:
    rules = [length_between(config.min_length, config.max_length)]
    if config.banned_words:
        rules.append(processors.never(_ids(config.banned_words, vocabulary)))
    if config.no_repetition:
        rules.append(processors.no_repetition())
    if config.no_repeated_ngram:
        rules.append(processors.no_repeated_ngram(config.no_repeated_ngram))
    function_words = sorted({*map(vocabulary.id_of, ENGLISH_FUNCTION_WORDS)} - {UNK})
    if config.no_repeated_content:
        rules.append(processors.no_repeated_ngram(1, allowed=function_words))
    if config.no_function_word_end:
        rules.append(processors.no_ending_on(function_words))
    return tuple(rules)


def _detected_things(known: Recognisable, vocabulary: Vocabulary) -> Int[np.ndarray, " V"]:
    """Return one word of the thing that each word names; 0 where nothing detects it.

    All people are one thing.
    """
    detected = {vocabulary.words[id] for id in known.ids[: known.detected]}
    groups = (sorted(words_for_people()), *word_groups())
    return word_forms(filter(detected.intersection, groups), vocabulary.words)[:, 0]


def _are_animals(things: Int[np.ndarray, " V"], vocabulary: Vocabulary) -> Bool[np.ndarray, " V"]:
    """Return which words name an animal that is detected."""
    animals = things[[vocabulary.id_of(word) for word in words_for_animals()]]
    return (things > 0) & np.isin(things, animals)


def _create_requirements(
    config: SearchConfig, vocabulary: Vocabulary
) -> Callable[[RecognisedWords], Int[Array, "B C M"]]:
    """Create `required(words)`: the user's words for every image, then the things it shows."""
    given = [_ids(words.split("|"), vocabulary) for words in config.required_words]
    # A thing that the user requires or bans is not for the recogniser to require.
    concerned = sum(given, _ids(config.banned_words, vocabulary))
    forms = word_forms(word_groups() if config.guide else (), vocabulary.words, concerned)
    own = np.full((len(given), max(map(len, [*given, forms[0]]))), PAD, np.int32)
    for number, ids in enumerate(given):
        own[number, : len(ids)] = ids
    forms = np.pad(forms, ((0, 0), (0, own.shape[1] - forms.shape[1])))
    room = min(MAX_REQUIRED, config.max_length) - len(given)

    def required(words: RecognisedWords) -> Int[Array, "B C M"]:
        everywhere = jnp.broadcast_to(own, (words.ids.shape[0], *own.shape))
        if not config.guide:
            return everywhere
        recognised = guide_requirements(
            *map(jnp.asarray, (*words, forms)),
            threshold=config.guide,
            at_most=min(config.guide_words, room),
        )
        return jnp.concatenate([everywhere, recognised], axis=1)

    return required


def _ids(words: Sequence[str], vocabulary: Vocabulary) -> list[int]:
    return [_id(word, vocabulary) for word in words]


def _id(word: str, vocabulary: Vocabulary) -> int:
    """Return the id of a word as a person writes it, or of `<unk>` if it is not one known unit."""
    units = vocabulary.units.split(word)
    return vocabulary.id_of(units[0]) if len(units) == 1 else UNK


def image_keys(rng: PRNGKeyArray, images: ImageInput) -> Key[Array, " B"]:
    """Return a key for each image, `[B]`, derived from `rng` and all its pixels or features.

    What is sampled for an image then does not depend on its place in a batch, on other images or
    on the process. Equal images get equal keys.
    """
    if images.pixels is not None:
        flat = images.pixels.reshape(images.pixels.shape[0], -1).astype(jnp.uint32)
    else:
        assert images.features is not None
        flat = images.features.reshape(images.features.shape[0], -1).astype(jnp.float32)
        flat = jax.lax.bitcast_convert_type(flat, jnp.uint32)
    # Multiply-sum hashing: Σ xᵢ wᵢ mod 2³² with fixed random wᵢ; twice, for 64 bits.
    place = jnp.arange(flat.shape[1], dtype=jnp.uint32)
    first, second = (
        (flat * _mixed(2 * place + half)).sum(axis=1, dtype=jnp.uint32) for half in (0, 1)
    )
    return jax.vmap(lambda a, b: jax.random.fold_in(jax.random.fold_in(rng, a), b))(first, second)


def _mixed(x: UInt32[Array, " n"]) -> UInt32[Array, " n"]:
    """Mix consecutive integers into random odd ones: MurmurHash3's finalizer (Appleby, 2011)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return (x ^ (x >> 16)) | 1


def check_search(config: SearchConfig, vocabulary: Vocabulary, *, recognises: bool = False) -> None:
    """Refuse options that this vocabulary or model cannot search with.

    Args:
      recognises: whether the model recognises words.

    Raises:
      InputError: a value is out of bounds, a beam is wider than the vocabulary, a word is not in
        it, or the model has no words to guide the search.
    """
    choices = len(vocabulary) - 3  # <pad>, <bos> and <unk> are never chosen
    if not 1 <= config.beam_size <= choices:
        raise InputError(
            f"beam size {config.beam_size}: give 1 (greedy) to {choices} "
            "(the vocabulary); 3 to 5 is usual."
        )
    validate(replace(Config(), search=config))
    guide = config.guide if config.method == "beam" else 0
    for name, value in (("guide", guide), ("unrecognised_penalty", config.unrecognised_penalty)):
        if value and not recognises:
            raise InputError(
                f"search.{name} is {value:g}, but this model does not recognise words; use "
                "a model with recognition.words above 0, or set the option to 0."
            )
    banned = set(config.banned_words)
    required = [word for words in config.required_words for word in words.split("|")]
    for option, words in (("banned", config.banned_words), ("required", required)):
        for word in words:
            if _id(word, vocabulary) == UNK:
                raise InputError(f"search.{option}_words: {_unknown(word, vocabulary)}")
    for alternatives in config.required_words:
        if banned.issuperset(alternatives.split("|")):
            raise InputError(
                f"search: '{alternatives}' is both required and banned; leave one of the two out."
            )
    if len(config.required_words) > config.max_length:
        raise InputError(
            f"search.max_length is {config.max_length}, which is too short for the "
            f"{counted(len(config.required_words), 'word')} of search.required_words."
        )
    if config.no_function_word_end and vocabulary.units.name != "words":
        raise InputError(
            "search.no_function_word_end is for captions made of words, and those of this run are "
            f"made of {vocabulary.units.name}; leave it out."
        )


def _unknown(word: str, vocabulary: Vocabulary) -> str:
    units = vocabulary.units.split(word)
    if len(units) != 1:
        one = vocabulary.units.name.removesuffix("s")
        return f"'{word}' is not one {one} but {len(units)}; give single {one}s."
    known = vocabulary.words[len(SPECIALS) :]
    return (
        f"the vocabulary of {len(known)} {vocabulary.units.name} has no '{word}'."
        f"{did_you_mean(units[0], known)} Only words that were trained on can be written."
    )


def same_vocabulary(vocabularies: Mapping[str, Vocabulary]) -> Vocabulary:
    """Return the vocabulary that the runs of an ensemble, by name, have in common.

    Raises:
      InputError: they differ; the message says how.
    """
    (first, expected), *others = vocabularies.items()
    for name, found in others:
        if found == expected:
            continue
        if found.units != expected.units:
            how = f"the former splits captions into {found.units.name} in another way"
        elif more := set(found.words) - set(expected.words):
            how = f"'{min(more)}' and {len(more) - 1} more are in the former only"
        elif fewer := set(expected.words) - set(found.words):
            how = f"'{min(fewer)}' and {len(fewer) - 1} more are in the latter only"
        else:
            how = "they hold the same words in another order"
        raise InputError(
            f"{name} and {first} have different vocabularies ({len(found)} and {len(expected)} "
            f"entries): {how}. The runs of an ensemble need one vocabulary: train them on the same "
            "captions with the same data.min_count, or fine-tune one captioner without new words."
        )
    return expected


def describe(config: SearchConfig, units: str = "words") -> str:
    """Describe how captions are decoded, for the protocol of an evaluation.

    Args:
      units: the units of captions, as in `data.units`.
    """
    ranking = {
        "none": "no length normalisation",
        "average": "log p averaged",
        "exponent": f"length penalty {config.length_penalty:g}",
        "gnmt": f"GNMT length penalty {config.length_penalty:g}",
    }[config.length_normalisation]
    parts = {
        "beam": [f"beam {config.beam_size}", ranking],
        "diverse": [
            f"beam {config.beam_size} in {config.groups} groups, diversity {config.diversity:g}",
            ranking,
        ],
        "greedy": ["greedy"],
        "sample": [
            f"{counted(config.samples, 'caption')} sampled with seed {config.seed} "
            f"at temperature {config.temperature:g}"
            + f" of the {config.top_k} likeliest {units}" * (config.top_k > 0)
            + f" of those that come to {config.top_p:g}" * (config.top_p < 1)
        ],
    }[config.method]
    at_least = f"at least {config.min_length} and " if config.min_length else ""
    parts.append(f"{at_least}at most {config.max_length} {units}")
    for words, verb in ((config.banned_words, "without"), (config.required_words, "with")):
        if words:
            parts.append(f"{verb} {', '.join(words)}")
    if config.guide and config.method == "beam":
        bonus = f", bonus {config.guide_bonus:g}" if config.guide_bonus else ""
        things = f"p ≥ {config.guide:g}, at most {config.guide_words}{bonus}"
        parts.append(f"guided by recognised words ({things})")
    if config.unrecognised_penalty:
        parts.append(f"unrecognised things cost {config.unrecognised_penalty:g}")
    if config.no_repetition:
        parts.append(f"no {units.removesuffix('s')} twice in succession")
    if config.no_repeated_ngram:
        parts.append(f"no {config.no_repeated_ngram} {units} twice")
    if config.no_repeated_content:
        parts.append("no content word twice")
    if config.no_function_word_end:
        parts.append("no function word last")
    return ", ".join(parts)

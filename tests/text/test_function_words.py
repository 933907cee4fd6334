"""The list of words that no caption ends with."""

from jaxcap.text.function_words import ENGLISH_FUNCTION_WORDS


def test_function_words_are_different_lower_case_words() -> None:
    assert len(set(ENGLISH_FUNCTION_WORDS)) == len(ENGLISH_FUNCTION_WORDS)
    assert all(word.isalpha() and word.islower() for word in ENGLISH_FUNCTION_WORDS)
    assert {"a", "the", "and", "with", "in", "is"} < set(ENGLISH_FUNCTION_WORDS)
    assert not {"on", "by", "up", "down", "two", "dog"} & set(ENGLISH_FUNCTION_WORDS)

"""`tokenize` against what coco-caption's tokeniser (CoreNLP 3.4.1, in Java) gave for the text."""

from __future__ import annotations

import pytest

from jaxcap.metrics import tokenize

# Written by the Java program; the dropped punctuation removed.
JAVA = [
    (
        "A man's dog doesn't like the dogs' toys; it can't and won't.",
        "a man 's dog does n't like the dogs toys it ca n't and wo n't",
    ),
    (
        "I'm sure they're his, we've seen he'll say she'd cannot gonna wanna gimme",
        "i 'm sure they 're his we 've seen he 'll say she 'd can not gon na wan na gim me",
    ),
    (
        "'Tis the '90s, 'cause rock 'n' roll wasn't o'clock y'all ma'am",
        "'t is the '90s 'cause rock 'n' roll was n't o'clock y' all ma'am",
    ),
    (
        "It’s a “quoted” word — don’t ‘ask’ …",
        "it 's a quoted word do n't ask",
    ),
    (
        "A 5-year-old in a t-shirt, black-and-white striped.",
        "a 5-year-old in a t-shirt black-and-white striped",
    ),
    (
        "Mr. Smith and Dr. Who at 5 p.m. on 5th Ave. in the U.S.",
        "mr. smith and dr. who at 5 p.m. on 5th ave. in the u.s.",
    ),
    (
        "This is plan b. It is the no. 5 bus, no. It is not.",
        "this is plan b it is the no. 5 bus no it is not",
    ),
    (
        "Miss. is a state and a miss. is not.",
        "miss. is a state and a miss is not",
    ),
    (
        "a bird's-eye view of grass.He left!Now",
        "a bird 's eye view of grass.he left!now",
    ),
    (
        "He pays $5.00 or 20% or £3 or 5€ and 10¢ for 1/2 of 1,000.50 or ½.",
        "he pays $ 5.00 or 20 % or # 3 or 5 $ and 10 cents for 1/2 of 1,000.50 or 1/2",
    ),
    (
        "It is 10:30am, -5 degrees, #1 at 555-1234 or (555) 123-4567.",
        "it is 10:30 am -5 degrees # 1 at 555-1234 or -lrb-555-rrb- 123-4567",
    ),
    (
        "A dog (brown) runs [fast] {here}.",
        "a dog -lrb- brown -rrb- runs -lsb- fast -rsb- -lcb- here -rcb-",
    ),
    (
        "Wait... what?? No!! Yes. . . the end.... -- --- ok?",
        "wait what ?? no !! yes the end ok",
    ),
    (
        "A sign saying \"STOP\" and 'go' and ``that''.",
        "a sign saying stop and go and that",
    ),
    (
        "black/white a/b/c/d w/ a ball w/o leash AT&T at&t A&W black&white",
        "black/white a/b/c / d w / a ball w/o leash at&t at & t a&w black & white",
    ),
    (
        ":) :-( ;D <3 *star* under_score a+b=c 5 + 5 ~ ^ < > | &amp;",
        ":-rrb- :--lrb- ;d < 3 * star * under_score a + b = c 5 + 5 ~ ^ < > | &",
    ),
    (
        "see http://www.example.com/page. or www.flickr.com or me@example.com @home #tag",
        "see http://www.example.com/page or www.flickr.com or me@example.com @home #tag",
    ),
    (
        "<b>bold</b> café naïve crème-brûlée dog🐶dog ❤️ 日本語 100° ©",
        "<b> bold </b> café naïve crème-brûlée dog dog ❤ 日本語 100 ° ©",
    ),
    (
        "L'Oreal d'oeuvre O'Neill somethin' Jr. etc. vs. e.g. i.e. St.Bernard",
        "l'oreal d'oeuvre o'neill somethin' jr. etc. vs. e.g. i.e. st.bernard",
    ),
]


@pytest.mark.parametrize(("caption", "expected"), JAVA)
def test_equals_java(caption: str, expected: str) -> None:
    assert tokenize(caption) == expected.split()


@pytest.mark.parametrize("caption", ["", "   ", " . , ! ? ; : - -- ... ' \" `` ''", "…", "🐶"])
def test_nothing_but_punctuation_has_no_tokens(caption: str) -> None:
    assert tokenize(caption) == []


def test_line_breaks_are_spaces() -> None:
    assert tokenize(" a dog\nruns\r\nfast\t.\n") == ["a", "dog", "runs", "fast"]


def test_spaces_around_punctuation_change_nothing() -> None:
    # Flickr8k's captions come with spaces around punctuation, COCO has them without.
    assert tokenize("A dog , brown , runs .") == tokenize("A dog, brown, runs.")


@pytest.mark.parametrize("mark", list("@#$%&*()[]{}<>~^|\\/+=_-'\"`’“½é中\u0301\u200b\ufe0f🐶\x00"))
def test_any_character_anywhere_ends(mark: str) -> None:
    for text in (
        mark,
        mark * 3,
        f"dog{mark}cat",
        f"{mark} dog",
        f"dog{mark}",
        f"5{mark}5 n{mark}t",
    ):
        tokens = tokenize(text)
        assert all(token and not any(c.isspace() for c in token) for token in tokens)

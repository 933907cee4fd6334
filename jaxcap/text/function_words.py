"""English words that only connect others."""

ENGLISH_FUNCTION_WORDS: tuple[str, ...] = (
    # determiners and possessives
    *("a", "an", "the", "this", "these", "each", "some", "several", "no"),
    *("his", "its", "their", "my", "our"),
    # prepositions
    *("about", "across", "after", "against", "along", "among", "amongst", "as", "at", "beneath"),
    *("beside", "between", "beyond", "during", "for", "from", "in", "into", "like", "near", "of"),
    *("onto", "over", "than", "through", "to", "toward", "towards", "under", "upon", "with"),
    *("within", "without"),
    # conjunctions and relative pronouns
    *("and", "because", "but", "if", "or", "that", "when", "where", "which", "while", "who"),
    *("whom", "whose"),
    # forms of be and have
    *("am", "are", "be", "been", "being", "had", "has", "have", "having", "is", "was", "were"),
    # modifiers
    *("next", "very"),
)
"""English words that need another word after them; a caption that ends on one is truncated.

N-gram scores barely penalise such endings, and training on them, as on CIDEr, may even cause
them. Luo's captioning code counts and forbids seventeen `bad_endings`
(https://github.com/ruotianluo/self-critical.pytorch, `AttModel.py` and `eval_utils.py`). This list
is longer. It was checked on the 35,000 captions of Flickr8k's training and development images:
each word is the last of its caption in fewer than 1 % of its occurrences, and all words together
in 52 of 144,647. The list leaves out `on`, `by`, `up`, `down`, `her`, `outside` and the numerals,
as in "a dog looks on" or "two boys walk by".
"""

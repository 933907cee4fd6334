"""Which images are for training: the names of splits, and how a split is drawn.

A split is drawn by a hash of each image's name alone, so that an image stays where it is whatever
others come or go: a test image never becomes a training image.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping

from jaxcap.errors import InputError

DEFAULT_FRACTIONS: Mapping[str, float] = {"train": 0.8, "dev": 0.1, "test": 0.1}
_ORDER = ("train", "dev", "test")
_SAME = {
    "train": ("training", "restval"),  # Karpathy's name for what most papers train on, too
    "dev": ("val", "valid", "validation", "development"),
    "test": ("testing",),
}
_CANONICAL = {other: name for name, others in _SAME.items() for other in (name, *others)}
_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)


def canonical(name: str) -> str:
    """The split that people call by this name: `"dev"` for `"Validation"`.

    Raises:
      InputError: no file could be named after it.
    """
    name = name.strip()
    known = _CANONICAL.get(name.lower(), name)
    if not _NAME.fullmatch(known) or known == "all":  # TFDS calls all splits together "all"
        raise InputError(
            f"the split {name!r}; expected train, dev (or val), test, or a name of ASCII letters, "
            "digits and _ that begins with a letter"
        )
    return known


def canonical_or_none(name: str) -> str | None:
    """`canonical`, or None where that would refuse."""
    try:
        return canonical(name)
    except InputError:
        return None


def in_order(names: Iterable[str]) -> list[str]:
    """Train, dev, test, and then others as they come, each once."""
    known = list(dict.fromkeys(names))
    return sorted(known, key=lambda n: _ORDER.index(n) if n in _ORDER else len(_ORDER))


def check_fractions(fractions: Mapping[str, float]) -> dict[str, float]:
    """The same by their canonical names.

    Raises:
      InputError: names that cannot be, or shares that are none or do not add up to 1.
    """
    found: dict[str, float] = {}
    for name, share in fractions.items():
        if canonical(name) in found:
            raise InputError(f"the shares of the splits name {canonical(name)!r} twice")
        if not 0.0 < share <= 1.0:
            raise InputError(
                f"the share of the split {name!r} is {share:g}; expected 0 < share ≤ 1"
            )
        found[canonical(name)] = share
    if not math.isclose(total := sum(found.values()), 1.0, abs_tol=1e-6):
        shares = ", ".join(f"{name} {share:g}" for name, share in found.items())
        raise InputError(f"the shares of the splits ({shares}) add up to {total:g}; expected 1")
    return found


def draw(name: str, fractions: Mapping[str, float]) -> str:
    """The split of an image, by its name alone.

    SHA-256 of the name (in Unicode's composed form: file systems differ in it) is a number that is
    uniform in [0, 1). The test split has its lowest part, training its highest: whoever changes the
    share of dev moves images between dev and train only.

    Args:
      name: of the image.
      fractions: shares that add up to 1, by canonical names.
    """
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode("utf-8", "surrogatepass"))
    number = int.from_bytes(digest.digest()[:8], "big") / 2**64
    bound = 0.0
    order = sorted(fractions, key=lambda n: ({"test": 0, "dev": 1, "train": 3}.get(n, 2), n))
    for split in order:
        bound += fractions[split]
        if number < bound:
            return split
    return order[-1]  # the shares add up to a little less than 1

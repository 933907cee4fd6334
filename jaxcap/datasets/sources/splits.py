"""Name splits, and assign images to them at random.

The split of an image depends only on a hash of its name. Adding or removing other images does not
move it, so a test image never becomes a training image.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping

from jaxcap.files.normal_form import normal_form
from jaxcap.messages.errors import InputError

DEFAULT_FRACTIONS: Mapping[str, float] = {"train": 0.8, "dev": 0.1, "test": 0.1}
_ORDER = ("train", "dev", "test")
_SAME = {
    "train": ("training", "restval"),  # Karpathy's name; most papers train on it, too
    "dev": ("val", "valid", "validation", "development"),
    "test": ("testing",),
}
_CANONICAL = {other: name for name, others in _SAME.items() for other in (name, *others)}
_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)


def canonical(name: str) -> str:
    """Return the canonical name of a split: `"dev"` for `"Validation"`.

    Raises:
      InputError: the name cannot be part of a file name.
    """
    name = name.strip()
    known = _CANONICAL.get(name.lower(), name)
    if not _NAME.fullmatch(known) or known == "all":  # TFDS calls all splits together "all"
        raise InputError(
            f"the split is called {name!r}; expected train, dev (or val), test, or a name of ASCII "
            "letters, digits and '_' that begins with a letter"
        )
    return known


def canonical_or_none(name: str) -> str | None:
    """Return `canonical(name)`, or None for an invalid name."""
    try:
        return canonical(name)
    except InputError:
        return None


def in_order(names: Iterable[str]) -> list[str]:
    """Return the distinct names: train, dev, test, then the others in the given order."""
    known = list(dict.fromkeys(names))
    return sorted(known, key=lambda n: _ORDER.index(n) if n in _ORDER else len(_ORDER))


def check_fractions(fractions: Mapping[str, float]) -> dict[str, float]:
    """Return the fractions by canonical names.

    Raises:
      InputError: an invalid or repeated name, or fractions that do not add up to 1.
    """
    found: dict[str, float] = {}
    for name, share in fractions.items():
        if canonical(name) in found:
            raise InputError(
                f"the fractions of the splits name {canonical(name)!r} twice; give each split once"
            )
        if not 0.0 < share <= 1.0:
            raise InputError(
                f"the fraction of the split {name!r} is {share:g}; expected 0 < fraction ≤ 1"
            )
        found[canonical(name)] = share
    if not math.isclose(total := sum(found.values()), 1.0, abs_tol=1e-6):
        shares = ", ".join(f"{name} {share:g}" for name, share in found.items())
        raise InputError(f"the fractions of the splits ({shares}) add up to {total:g}; expected 1")
    return found


def draw(name: str, fractions: Mapping[str, float]) -> str:
    """Assign an image to a split by its name.

    The SHA-256 of the name gives a uniform number in [0, 1). The name is first brought into
    Unicode's composed form, because file systems differ. The test split takes the lowest numbers
    and training the highest, so changing the fraction of dev only moves images between dev and
    train.

    Args:
      name: the name of the image.
      fractions: the fraction of each split, by canonical name; they add up to 1.
    """
    digest = hashlib.sha256(normal_form("NFC", name).encode("utf-8", "surrogatepass"))
    number = int.from_bytes(digest.digest()[:8], "big") / 2**64
    bound = 0.0
    order = sorted(fractions, key=lambda n: ({"test": 0, "dev": 1, "train": 3}.get(n, 2), n))
    for split in order:
        bound += fractions[split]
        if number < bound:
            return split
    return order[-1]  # rounding: the sum may be just below 1

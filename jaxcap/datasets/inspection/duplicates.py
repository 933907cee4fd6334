"""Find identical and similar items, and the splits that share them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8, UInt64

ALIKE = 12
"""The maximum number of different bits, of 128, in the fingerprints of two copies."""

_BANDS = 8
_NEAR = 512
"""The maximum number of images that an image is compared with in each band."""


@dataclass(frozen=True)
class Shared:
    """The number of items that two splits have in common, or that one split repeats.

    Attributes:
      splits: the names, in the order of the data set; twice the same for repeats within a split.
      items: the number of items of the second split that also occur in the first; within a split,
        the number of repeats of earlier items.
    """

    splits: tuple[str, str]
    items: int


def groups_of(keys: UInt64[np.ndarray, " n"]) -> list[list[int]]:
    """Return the indices of each key that occurs more than once, sorted by the first index."""
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(np.diff(keys[order]) == 0)
    # Runs of equal neighbours; a new run begins where the indices are not consecutive.
    runs = np.split(same, np.flatnonzero(np.diff(same) != 1) + 1) if len(same) else []
    groups = [order[run[0] : run[-1] + 2].tolist() for run in runs]
    return sorted(groups)


def alike(
    fingerprints: UInt8[np.ndarray, "n bytes"], *, most: int = ALIKE
) -> tuple[Int[np.ndarray, "pairs 2"], bool]:
    """Find pairs of fingerprints that differ in at most `most` bits, nearest first.

    Multi-index hashing (Norouzi, Punjani and Fleet, CVPR 2012, section 3.1): two fingerprints that
    differ in fewer bits than there are bands agree in a whole band, so only those are compared.
    All pairs that differ in up to 7 bits are found. If bits are independent, so are 97 % of those
    that differ in 10 bits, and 91 % of those that differ in 12.

    Returns:
      The pairs, each once with the lower index first, and whether the search was complete. Where
      thousands agree in a band (flat drawings), each is compared with `_NEAR` of them only.
    """
    bands = np.ascontiguousarray(fingerprints).view(np.uint16)
    words = np.ascontiguousarray(fingerprints).view(np.uint64)
    found, complete = [np.zeros((0, 2), np.int64)], True
    for band in bands.T[:_BANDS]:
        order = np.lexsort((*words.T, band))
        sorted_band = band[order]
        at = np.arange(len(order) - 1)
        for ahead in range(1, _NEAR + 1):
            at = at[at + ahead < len(order)]
            at = at[sorted_band[at] == sorted_band[at + ahead]]
            if not len(at):
                break
            one, other = order[at], order[at + ahead]
            near = np.bitwise_count(words[one] ^ words[other]).sum(axis=1) <= most
            found.append(np.stack([one[near], other[near]], axis=1))
        else:
            complete = False
    pairs = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    apart = np.bitwise_count(words[pairs[:, 0]] ^ words[pairs[:, 1]]).sum(axis=1)
    return pairs[np.argsort(apart, kind="stable")], complete


def joined(groups: Iterable[Sequence[int]]) -> list[list[int]]:
    """Merge groups that share a member; members and groups are sorted."""
    parent: dict[int, int] = {}

    def root(item: int) -> int:
        parent.setdefault(item, item)
        while parent[item] != item:
            parent[item] = item = parent[parent[item]]
        return item

    for group in groups:
        for item in group:
            first, second = root(group[0]), root(item)
            parent[max(first, second)] = min(first, second)
    members: dict[int, list[int]] = {}
    for item in sorted(parent):
        members.setdefault(root(item), []).append(item)
    return list(members.values())


def shared(
    groups: Iterable[Sequence[int]], split_of: Callable[[int], str], order: Sequence[str]
) -> list[Shared]:
    """Count the items that splits have in common.

    Args:
      groups: the indices of identical items.
      split_of: returns the split of an index.
      order: the names of all splits.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for group in groups:
        here = Counter(map(split_of, group))
        for split, number in here.items():
            counts[split, split] += number - 1
        for first, second in itertools.combinations([s for s in order if s in here], 2):
            counts[first, second] += here[second]
    pairs = itertools.combinations_with_replacement(order, 2)
    return [Shared(pair, counts[pair]) for pair in pairs if counts[pair]]

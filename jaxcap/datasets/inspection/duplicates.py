"""Which of many items are the same or alike, and which of their splits share some."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8, UInt64

ALIKE = 12
"""Bits in which the fingerprints of two copies of a picture differ at most, of 128."""

_BANDS = 8
_NEAR = 512
"""How many pictures that agree in a band a picture is compared with."""


@dataclass(frozen=True)
class Shared:
    """How many items two splits have in common, or one with itself.

    Attributes:
      splits: their names, in the data set's order; twice the same for repeats within a split.
      items: those of the second that are in the first, too; within a split, those that are in it
        before.
    """

    splits: tuple[str, str]
    items: int


def groups_of(keys: UInt64[np.ndarray, " n"]) -> list[list[int]]:
    """The places of each key that occurs more than once, in order of the first place."""
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(np.diff(keys[order]) == 0)
    # Runs of neighbours that agree: a new one begins where the numbers skip one.
    runs = np.split(same, np.flatnonzero(np.diff(same) != 1) + 1) if len(same) else []
    groups = [order[run[0] : run[-1] + 2].tolist() for run in runs]
    return sorted(groups)


def alike(
    fingerprints: UInt8[np.ndarray, "n bytes"], *, most: int = ALIKE
) -> tuple[Int[np.ndarray, "pairs 2"], bool]:
    """Pairs of fingerprints that differ in at most `most` bits, nearest first.

    Two that differ in fewer bits than there are bands agree in a whole band, so only those
    need be compared (multi-index hashing, Norouzi, Punjani and Fleet, CVPR 2012, section 3.1).
    All pairs of up to 7 bits are found; of those of 10 and 12, if bits fall independently, 97 %
    and 91 %.

    Returns:
      The pairs, each once, lower number first; and whether all were looked at. In a set
      where thousands agree in a band (flat drawings) each is compared with `_NEAR` of them.
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
    """Groups that share a member as one, members and groups in order."""
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
    """What splits have in common, from the groups of items that are one.

    Args:
      groups: the numbers of items that are one.
      split_of: the split of a number.
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

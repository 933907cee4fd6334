"""The order in which Keras keeps the layers of a model.

Early files of Keras 3 do not name layers; they only give their places in `model.layers`. Layers
are sorted by their distance from the output along the longest path, so the branches of a network
are interleaved: within a block, the longest branch comes first.
"""

from __future__ import annotations

import re
from collections.abc import Collection

# Inception-v3 (Szegedy et al. 2015, https://arxiv.org/abs/1512.00567), figures 5, 10, 6, 10, 7:
# the convolutions of each block, numbered as they are created, in the order of `model.layers`.
_STEM = (0, 1, 2, 3, 4)
_FIGURE_5 = (3, 1, 4, 0, 2, 5, 6)
_GRID_35_TO_17 = (1, 2, 0, 3)
_FIGURE_6 = (4, 5, 1, 6, 2, 7, 0, 3, 8, 9)
_GRID_17_TO_8 = (2, 3, 0, 4, 1, 5)
_FIGURE_7 = (4, 1, 5, 2, 3, 6, 7, 0, 8)
_INCEPTION_V3 = (
    _STEM,
    *(3 * (_FIGURE_5,)),
    _GRID_35_TO_17,
    *(4 * (_FIGURE_6,)),
    _GRID_17_TO_8,
    *(2 * (_FIGURE_7,)),
)

_RESNET = re.compile(r"conv(\d+)(?:_block(\d+)_(\d))?_(?:conv|bn)")
# The shortcut's convolution is as far from the output as the third one.
_RESNET_PLACES = ("1", "2", "0", "3")
_VGG = re.compile(r"block(\d+)_conv(\d+)")


def names_in_order(layers: Collection[str]) -> dict[str, str]:
    """Map Keras's names of layers to names that number them in the order of `model.layers`.

    `"conv1_bn"` of ResNet-50 is `"batch_normalization_0"`, `"conv2_block1_0_conv"` is
    `"conv2d_3"`. The result is empty if the order is unknown.

    Args:
        layers: the names of all convolutions and normalisations of one architecture.
    """
    names: dict[str, str] = {}
    norms = {layer for layer in layers if layer.startswith("batch_norm") or layer.endswith("_bn")}
    for kind, members in (("batch_normalization", norms), ("conv2d", set(layers) - norms)):
        places = {layer: place for layer in members if (place := _place(layer)) is not None}
        if len(places) < len(members):
            return {}
        for i, layer in enumerate(sorted(places, key=lambda layer: places[layer])):
            names[layer] = f"{kind}_{i}"
    return names


def _place(layer: str) -> tuple[int, ...] | None:
    if found := _VGG.fullmatch(layer):
        return int(found[1]), int(found[2])
    if found := _RESNET.fullmatch(layer):
        stage, block, place = found.groups()
        return int(stage), int(block or 0), _RESNET_PLACES.index(place or "0")
    if found := re.fullmatch(r"(?:conv2d|batch_normalization)_(\d+)", layer):
        first, number = 0, int(found[1])
        for i, block_order in enumerate(_INCEPTION_V3):
            if number < first + len(block_order):
                return i, block_order.index(number - first)
            first += len(block_order)
    return None

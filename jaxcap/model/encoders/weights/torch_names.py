"""Translate the names that PyTorch's libraries and wrappers give to the same tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

_T = TypeVar("_T")

# timm's modules of EfficientNet-Lite to those of the package efficientnet-lite-pytorch: in blocks
# with an expansion, in blocks without one, and outside of blocks.
_TIMM_EXPANDED = {
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}
_TIMM_PLAIN = {
    "conv_dw": "_depthwise_conv",
    "bn1": "_bn1",
    "conv_pw": "_project_conv",
    "bn2": "_bn2",
}
_TIMM_OUTSIDE = {
    "conv_stem": "_conv_stem",
    "bn1": "_bn0",
    "conv_head": "_conv_head",
    "bn2": "_bn1",
    "classifier": "_fc",
}
_TIMM_BLOCK = re.compile(r"blocks\.(\d{1,9})\.(\d{1,9})\.(\w+)\.(\w+)")


def plain_torch_names(tensors: Mapping[str, _T]) -> dict[str, _T]:
    """Rename tensors to the names that the layouts of encoders use.

    Remove the prefix of `DataParallel`, add the prefix that Hugging Face's ResNet has only as
    part of a classifier, translate timm's EfficientNet-Lite, and drop counters of training steps.
    """
    names = [name for name in tensors if not name.endswith("num_batches_tracked")]
    if names and all(name.startswith("module.") for name in names):
        plain = {name: name.removeprefix("module.") for name in names}
    else:
        plain = {name: name for name in names}
    if "conv_stem.weight" in plain.values():
        timm = _from_timm_lite(plain.values())
        plain = {name: timm[value] for name, value in plain.items()}
    elif "embedder.embedder.convolution.weight" in plain.values():
        plain = {name: f"resnet.{value}" for name, value in plain.items()}
    return {plain[name]: tensors[name] for name in names}


def _from_timm_lite(names: Iterable[str]) -> dict[str, str]:
    """Map timm's names of EfficientNet-Lite, which number blocks within their stages.

    `"blocks.1.0.bn1.weight"` becomes `"_blocks.1._bn0.weight"`.
    """
    names = set(names)
    found = {name: _TIMM_BLOCK.fullmatch(name) for name in names}
    blocks = sorted({(int(f[1]), int(f[2])) for f in found.values() if f})
    numbers = {place: i for i, place in enumerate(blocks)}
    translated = {}
    for name, block in found.items():
        if block is None:
            module, _, leaf = name.partition(".")
            translated[name] = f"{_TIMM_OUTSIDE.get(module, module)}.{leaf}"
        else:
            is_expanded = f"blocks.{block[1]}.{block[2]}.conv_pwl.weight" in names
            modules = _TIMM_EXPANDED if is_expanded else _TIMM_PLAIN
            number = numbers[int(block[1]), int(block[2])]
            translated[name] = f"_blocks.{number}.{modules.get(block[3], block[3])}.{block[4]}"
    if len(set(translated.values())) < len(names):  # the file is not timm's after all
        return {name: name for name in names}
    return translated

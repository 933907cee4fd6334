"""Test one network's tensors under the names of several libraries."""

from jaxcap.model.encoders.weights.torch_names import plain_torch_names


def _renamed(*names):
    """The plain names, in order."""
    return list(plain_torch_names({name: i for i, name in enumerate(names)}))


def test_plain_names_are_unchanged():
    names = ("conv1.weight", "layer1.0.bn1.running_var", "fc.bias")
    assert _renamed(*names) == list(names)
    assert _renamed() == []


def test_step_counters_are_dropped():
    assert _renamed("bn1.num_batches_tracked", "bn1.bias") == ["bn1.bias"]


def test_a_common_data_parallel_prefix_is_removed():
    assert _renamed("module.a.weight", "module.b.bias") == ["a.weight", "b.bias"]
    assert _renamed("module.a.weight", "b.bias") == ["module.a.weight", "b.bias"]


def test_hugging_face_without_its_prefix():
    assert _renamed("embedder.embedder.convolution.weight", "encoder.stages.0.x") == [
        "resnet.embedder.embedder.convolution.weight",
        "resnet.encoder.stages.0.x",
    ]


def test_timm_numbers_blocks_within_stages():
    assert _renamed(
        "conv_stem.weight",
        "bn1.bias",
        "blocks.0.0.conv_dw.weight",
        "blocks.0.0.bn1.weight",
        "blocks.0.0.conv_pw.weight",
        "blocks.0.0.bn2.running_mean",
        "blocks.1.0.conv_pw.weight",
        "blocks.1.0.bn1.weight",
        "blocks.1.0.conv_dw.weight",
        "blocks.1.0.bn2.weight",
        "blocks.1.0.conv_pwl.weight",
        "blocks.1.0.bn3.weight",
        "blocks.1.1.conv_pwl.weight",
        "blocks.10.0.conv_pwl.weight",
        "blocks.2.0.conv_pwl.weight",
        "conv_head.weight",
        "bn2.running_var",
        "classifier.bias",
    ) == [
        "_conv_stem.weight",
        "_bn0.bias",
        "_blocks.0._depthwise_conv.weight",
        "_blocks.0._bn1.weight",
        "_blocks.0._project_conv.weight",
        "_blocks.0._bn2.running_mean",
        "_blocks.1._expand_conv.weight",
        "_blocks.1._bn0.weight",
        "_blocks.1._depthwise_conv.weight",
        "_blocks.1._bn1.weight",
        "_blocks.1._project_conv.weight",
        "_blocks.1._bn2.weight",
        "_blocks.2._project_conv.weight",
        "_blocks.4._project_conv.weight",
        "_blocks.3._project_conv.weight",
        "_conv_head.weight",
        "_bn1.running_var",
        "_fc.bias",
    ]


def test_other_networks_with_a_conv_stem_keep_their_names():
    names = ("conv_stem.weight", "blocks.0.0.se.fc1.weight", "blocks.x")
    assert _renamed(*names)[1:] == list(names[1:])
    clash = ("conv_stem.weight", "bn1.bias", "_bn0.bias")
    assert _renamed(*clash) == list(clash)

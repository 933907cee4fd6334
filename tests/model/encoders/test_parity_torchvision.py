"""Features, gradients and batch statistics equal torchvision's, with equal random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from references import relative_error

from jaxcap.model.encoders import ENCODERS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("vgg16", (97, 224)),
        ("vgg19", (16, 81)),
        ("resnet18", (1, 64, 97)),
        ("resnet34", (65,)),
        ("resnet50", (97, 224)),
        ("resnet101", (65,)),
        ("resnet152", (49,)),
        ("inception_v3", (96, 299)),
    ],
)
def test_features_equal_torchvisions(name, sides):
    spec = ENCODERS[name]
    variables = references.random_variables(spec)
    model = references.torchvision_model(name, variables)
    for side in sides:
        images = references.random_images(side)
        ours = references.features(spec, variables, images)
        theirs = references.torch_features(model, images, ours.shape[-1])
        assert relative_error(ours, theirs) < 1e-4, side


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_training_step_equals_torchvisions(name):
    """Features normalised by the batch, every gradient, and every new running statistic.

    In float64, because rounding lets a ReLU fall on its other side now and then, and the
    gradients of two float32 computations then differ by a hundredth.
    """
    spec = ENCODERS[name]
    name_of = spec.layouts["torchvision"]
    images = references.random_images(33, batch=4).astype(np.float64)
    variables = references.random_variables(spec)
    model = references.torchvision_model(name, variables).double().train()

    with jax.enable_x64(True):
        variables = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables)
        module, pixels = spec.build(dtype=jnp.float64), jnp.asarray(images)

        @jax.jit
        def step(params):
            def loss(params):
                now = {**variables, "params": params}
                features, updates = module.apply(now, pixels, train=True, mutable=["batch_stats"])
                return (features**2).mean(), (features, updates)

            return jax.grad(loss, has_aux=True)(params)

        gradients, (features, updates) = step(variables["params"])

    torch = pytest.importorskip("torch")
    values_in_a_channel = {}
    for layer_name, layer in model.named_modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.register_forward_hook(
                lambda layer, inputs, output, key=f"{layer_name}.running_var": (
                    values_in_a_channel.update({key: output[:, 0].numel()})
                )
            )
    y = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    (y**2).mean().backward()

    theirs = y.detach().reshape(4, features.shape[-1], -1).numpy().transpose(0, 2, 1)
    assert relative_error(np.asarray(features), theirs) < 1e-9
    their_gradients = {key: value.grad.numpy() for key, value in model.named_parameters()}
    for key, ours in references.torch_tensors({"params": gradients}, name_of).items():
        assert relative_error(ours, their_gradients[key]) < 1e-9, key
    before, after = references.torch_tensors(variables, name_of), model.state_dict()
    for key, ours in references.torch_tensors(updates, name_of).items():
        if key in values_in_a_channel:  # PyTorch keeps the variance divided by n − 1, Flax by n
            n, kept = values_in_a_channel[key], 0.9 * before[key]
            ours = kept + (ours - kept) * n / (n - 1)
        np.testing.assert_allclose(ours, after[key], rtol=1e-9, atol=1e-9, err_msg=key)
    assert len(values_in_a_channel) == len(jax.tree.leaves(updates)) / 2

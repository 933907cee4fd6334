"""One step on many devices: the same function, jitted over a mesh or pmapped.

Under `jit` the step sees the whole batch, whose rows lie on the devices, and XLA divides the work:
batch statistics, sums of the loss and random numbers are those of the whole by construction. Under
`pmap` each device runs the step on its rows and adds up with the others where `axis_name` says so.
Both give the same losses and parameters, up to the order in which sums are added.

Outside of the step the state is one and the same everywhere: a copy on each device of each process,
as one `jax.Array` that checkpoints and evaluation take as they take any other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxcap.config import TrainConfig
from jaxcap.errors import InputError

T = TypeVar("T")
Step = Callable[[Any, Any, Any], tuple[Any, Any]]
"""`step(state, batch, rng) -> (state, metrics)`, each a pytree of arrays."""

_AXIS = "batch"


@dataclass(frozen=True)
class Parallel:
    """How a step and its data are shared out.

    Attributes:
      method: by what, or neither of the two for a single device, where there is nothing to share.
      devices: how many there are, of all processes.
    """

    method: Literal["jit", "pmap", "single"]
    devices: int

    @property
    def axis_name(self) -> str | None:
        """The mapped axis that model and step are to be told of."""
        return _AXIS if self.method == "pmap" else None

    def compile(self, step: Step) -> Step:
        """The step over all devices, which takes this process's rows of the batch.

        The state given to it is used up: its memory becomes that of the new one.
        """
        if self.method == "single":
            return jax.jit(step, donate_argnums=0)
        return self._pmapped(step) if self.method == "pmap" else self._jitted(step)

    def _jitted(self, step: Step) -> Step:
        everywhere, rows = _everywhere(), NamedSharding(_mesh(), PartitionSpec(_AXIS))
        compiled = jax.jit(
            step,
            in_shardings=(everywhere, rows, everywhere),
            out_shardings=(everywhere, everywhere),
            donate_argnums=0,
        )

        @functools.wraps(step)
        def run(state: Any, batch: Any, rng: Any) -> tuple[Any, Any]:
            batch = jax.tree.map(
                lambda x: jax.make_array_from_process_local_data(rows, np.asarray(x)), batch
            )
            return compiled(state, batch, rng if jax.process_count() == 1 else _key(rng))

        return _with_lower(run, compiled)

    def _pmapped(self, step: Step) -> Step:
        compiled = jax.pmap(step, _AXIS, in_axes=(None, 0, None), out_axes=None, donate_argnums=0)
        devices = jax.local_device_count()

        @functools.wraps(step)
        def run(state: Any, batch: Any, rng: Any) -> tuple[Any, Any]:
            batch = jax.tree.map(lambda x: np.reshape(x, (devices, -1, *x.shape[1:])), batch)
            state, metrics = compiled(local(state), batch, rng)
            return _global(state), metrics

        return _with_lower(run, compiled)

    def place(self, tree: T) -> T:
        """A copy on every device, of values that all processes have alike."""
        if self.method == "single":
            return tree
        everywhere = _everywhere()

        def spread(x: Any) -> Any:
            return jax.make_array_from_process_local_data(everywhere, np.asarray(x), x.shape)

        # A copy of JAX's own: devices may share what is spread, and the step uses up its state.
        copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=everywhere)
        placed: T = copy(jax.tree.map(spread, tree))
        return placed


def create_parallel(train: TrainConfig, stages: Sequence[TrainConfig] = ()) -> Parallel:
    """What `train.parallel` asks for, on the devices that there are.

    Args:
      stages: what `train` is in each stage, if it has some.

    Raises:
      InputError: the devices do not divide the batch equally, or no such devices are there.
    """
    check_device(train.device)
    devices = jax.device_count()
    for each in stages or (train,):
        check_batch_size(each.batch_size, devices, each.accumulate)
    method = "jit" if train.parallel == "auto" else train.parallel
    return Parallel("single" if devices == 1 and train.parallel != "pmap" else method, devices)


def check_batch_size(batch_size: int, devices: int, accumulate: int = 1) -> None:
    """Refuses a batch that devices, or the parts of an accumulated gradient, cannot share equally.

    Raises:
      InputError: with the nearest sizes that they can.
    """
    shares = devices * accumulate
    rows, rest = divmod(batch_size, shares)
    if rest:
        sizes = [str(n * shares) for n in (rows, rows + 1) if n]
        parts = f" in train.accumulate = {accumulate} parts each" if accumulate > 1 else ""
        many = f"{devices} devices" if devices > 1 else "one device"
        raise InputError(
            f"train.batch_size is {batch_size}, which {many}{parts} cannot share equally; give "
            f"{' or '.join(sizes)}, or another multiple of {shares}."
        )


def use_device(kind: str) -> None:
    """Asks JAX for devices of this kind alone; before any use of a device, else without effect."""
    if kind != "auto":
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(kind, kind))


def check_device(kind: str) -> None:
    """Refuses to go on with devices of another kind than `train.device`.

    Raises:
      InputError: with the kinds that there are, and how to come to the one that was asked for.
    """
    if kind == "auto":
        return
    try:
        found = jax.default_backend()
    except (RuntimeError, AssertionError) as error:
        # An assertion of JAX's own fails where the support of a platform is not even installed.
        found = (str(error).splitlines() or ["no support of it is installed"])[0]
    if found != kind:
        needs = {"gpu": " GPUs need jaxcap[cuda].", "tpu": " TPUs need jaxcap[tpu]."}.get(kind, "")
        raise InputError(
            f"train.device is {kind}, but there is no such device; JAX says: {found}.{needs} "
            "With --train.device auto, training takes what there is."
        )


def local(tree: T) -> T:
    """This process's copies of what lies on all devices, without a copy being made."""
    if jax.process_count() == 1:
        return tree
    mesh = Mesh(np.array(jax.local_devices()), (_AXIS,))
    return _from_shards(tree, NamedSharding(mesh, PartitionSpec()))


def on_one_device(tree: T) -> T:
    """The copy on the first device of this process."""
    one: T = jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, tree)
    return one


def on_local_devices(tree: T) -> T:
    """A copy on each device of this process, as `over_local_devices` takes its variables."""
    mesh = Mesh(np.array(jax.local_devices()), (_AXIS,))
    spread: T = jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
    return spread


def over_local_devices(decode: Callable[[Any, Any], T]) -> Callable[[Any, Any], T]:
    """`decode(variables, images)`, its images shared out over the devices of this process.

    Their number must divide the number of images; see `round_up`.
    """
    if jax.device_count() == 1:
        return decode
    mesh = Mesh(np.array(jax.local_devices()), (_AXIS,))
    rows = NamedSharding(mesh, PartitionSpec(_AXIS))

    def run(variables: Any, images: Any) -> T:
        return decode(local(variables), jax.device_put(images, rows))

    return run


def round_up(batch_size: int) -> int:
    """The next number that the devices of this process divide."""
    devices = jax.local_device_count()
    return -(-batch_size // devices) * devices


def _mesh() -> Mesh:
    # Automatic axes: flax.linen's Embed fails under explicit ones.
    return jax.make_mesh((jax.device_count(),), (_AXIS,), axis_types=(AxisType.Auto,))


def _everywhere() -> NamedSharding:
    return NamedSharding(_mesh(), PartitionSpec())


def _global(tree: T) -> T:
    return tree if jax.process_count() == 1 else _from_shards(tree, _everywhere())


def _from_shards(tree: T, sharding: NamedSharding) -> T:
    """The same buffers, a copy of the whole on each local device, as an array of this sharding."""

    def rewrap(x: Any) -> Any:
        shards = {shard.device: shard.data for shard in x.addressable_shards}
        buffers = [shards[device] for device in sharding.addressable_devices if device in shards]
        return jax.make_array_from_single_device_arrays(x.shape, sharding, buffers)

    rewrapped: T = jax.tree.map(rewrap, tree)
    return rewrapped


def _key(rng: Any) -> Any:
    """A key that every process has, as one array over all of them."""
    data = np.asarray(jax.random.key_data(rng))
    everywhere = jax.make_array_from_process_local_data(_everywhere(), data, data.shape)
    return jax.random.wrap_key_data(everywhere, impl=jax.random.key_impl(rng))


def _with_lower(run: Any, compiled: Any) -> Step:
    """Lets the compiler's own analysis be asked for, as of any jitted function."""
    run.lower = compiled.lower
    traced: Step = run
    return traced

"""Run one training step on many devices: the same function, under jit over a mesh or under pmap.

Under `jit` the step sees the whole batch, sharded by rows, and XLA divides the work: batch
statistics, loss sums and random numbers are those of the whole batch by construction. Under `pmap`
each device runs the step on its own rows and reduces over `axis_name`. Both give the same losses
and parameters, up to the order of additions.

Outside of the step the state is replicated: a copy on each device of each process, as one
`jax.Array` that checkpoints and evaluation handle like any other.
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
from jaxcap.messages.errors import InputError

T = TypeVar("T")
Step = Callable[[Any, Any, Any], tuple[Any, Any]]
"""`step(state, batch, rng) -> (state, metrics)`, each a pytree of arrays."""

_AXIS = "batch"


@dataclass(frozen=True)
class Parallel:
    """How devices share a step and its batch.

    Attributes:
      method: "jit" or "pmap"; "single" for a single device.
      devices: number of devices of all processes.
    """

    method: Literal["jit", "pmap", "single"]
    devices: int

    @property
    def axis_name(self) -> str | None:
        """The name of the mapped axis, for model and step."""
        return _AXIS if self.method == "pmap" else None

    def compile(self, step: Step) -> Step:
        """Compile the step for all devices; it takes this process's rows of the batch.

        The state is donated: its memory is reused for the new state.
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
        """Replicate values that are equal in all processes onto every device."""
        if self.method == "single":
            return tree
        everywhere = _everywhere()

        def spread(x: Any) -> Any:
            return jax.make_array_from_process_local_data(everywhere, np.asarray(x), x.shape)

        # Copy: the arrays may share buffers with the caller's, and the step donates its state.
        copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=everywhere)
        placed: T = copy(jax.tree.map(spread, tree))
        return placed


def create_parallel(train: TrainConfig, stages: Sequence[TrainConfig] = ()) -> Parallel:
    """Return the parallelism of `train.parallel` on the available devices.

    Args:
      stages: the training options of each stage, if any.

    Raises:
      InputError: the devices do not divide the batch equally, or are of the wrong kind.
    """
    check_device(train.device)
    devices = jax.device_count()
    for each in stages or (train,):
        check_batch_size(each.batch_size, devices, each.accumulate)
    method = "jit" if train.parallel == "auto" else train.parallel
    return Parallel("single" if devices == 1 and train.parallel != "pmap" else method, devices)


def check_batch_size(batch_size: int, devices: int, accumulate: int = 1) -> None:
    """Refuse a batch that the devices and accumulated parts do not divide equally.

    Raises:
      InputError: with the nearest sizes that they divide.
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
    """Restrict JAX to one kind of device. It has no effect after the first use of a device."""
    if kind != "auto":
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(kind, kind))


def check_device(kind: str) -> None:
    """Refuse devices of another kind than `train.device`.

    Raises:
      InputError: with the kind that JAX found, and how to get the other.
    """
    if kind == "auto":
        return
    try:
        found = jax.default_backend()
    except (RuntimeError, AssertionError) as error:
        # JAX raises AssertionError if support for a platform is not installed.
        found = (str(error).splitlines() or ["support for it is not installed"])[0]
    if found != kind:
        needs = {"gpu": " GPUs need jaxcap[cuda].", "tpu": " TPUs need jaxcap[tpu]."}.get(kind, "")
        raise InputError(
            f"train.device is {kind}, but no such device is available; JAX says: {found}.{needs} "
            "--train.device auto uses the best available device."
        )


def local(tree: T) -> T:
    """Return this process's shards of replicated arrays, without copying."""
    if jax.process_count() == 1:
        return tree
    mesh = Mesh(np.array(jax.local_devices()), (_AXIS,))
    return _from_shards(tree, NamedSharding(mesh, PartitionSpec()))


def on_one_device(tree: T) -> T:
    """Return the copy on the first device of this process."""
    one: T = jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, tree)
    return one


def on_local_devices(tree: T) -> T:
    """Replicate variables onto each device of this process, for `over_local_devices`."""
    mesh = Mesh(np.array(jax.local_devices()), (_AXIS,))
    spread: T = jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
    return spread


def over_local_devices(decode: Callable[[Any, Any], T]) -> Callable[[Any, Any], T]:
    """Return `decode(variables, images)` with images sharded over the devices of this process.

    The number of devices must divide the number of images; see `round_up`.
    """
    if jax.device_count() == 1:
        return decode
    mesh = Mesh(np.array(jax.local_devices()), (_AXIS,))
    rows = NamedSharding(mesh, PartitionSpec(_AXIS))

    def run(variables: Any, images: Any) -> T:
        return decode(local(variables), jax.device_put(images, rows))

    return run


def round_up(batch_size: int) -> int:
    """Round up to a multiple of the number of devices of this process."""
    devices = jax.local_device_count()
    return -(-batch_size // devices) * devices


def _mesh() -> Mesh:
    # Automatic axes, because flax.linen.Embed fails under explicit ones.
    return jax.make_mesh((jax.device_count(),), (_AXIS,), axis_types=(AxisType.Auto,))


def _everywhere() -> NamedSharding:
    return NamedSharding(_mesh(), PartitionSpec())


def _global(tree: T) -> T:
    return tree if jax.process_count() == 1 else _from_shards(tree, _everywhere())


def _from_shards(tree: T, sharding: NamedSharding) -> T:
    """Rewrap the same buffers, one full copy per local device, as an array with this sharding."""

    def rewrap(x: Any) -> Any:
        shards = {shard.device: shard.data for shard in x.addressable_shards}
        buffers = [shards[device] for device in sharding.addressable_devices if device in shards]
        return jax.make_array_from_single_device_arrays(x.shape, sharding, buffers)

    rewrapped: T = jax.tree.map(rewrap, tree)
    return rewrapped


def _key(rng: Any) -> Any:
    """Return a key that every process holds as one array over all of them."""
    data = np.asarray(jax.random.key_data(rng))
    everywhere = jax.make_array_from_process_local_data(_everywhere(), data, data.shape)
    return jax.random.wrap_key_data(everywhere, impl=jax.random.key_impl(rng))


def _with_lower(run: Any, compiled: Any) -> Step:
    """Give a wrapped step the `lower` method of its jitted function."""
    run.lower = compiled.lower
    traced: Step = run
    return traced

"""Training of one transformer: what is trained, a step of it, and an evaluation.

What is trained is a dictionary of float32 arrays: all parameters of the network, or the arrays of a LoRA beside frozen
ones. A step casts them to the compute dtype, adds up the gradients of its micro-batches, and moves the float32 masters.
Over several devices the rows of every micro-batch are shared out and the parameters are on each of them; XLA adds the
gradients up. Losses are sums and counts, so neither cut changes the mean, but for the order of additions.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bark_jax.errors import InputError
from bark_jax.networks.probes import with_working_attention
from bark_jax.training.losses import Loss

Arrays = Mapping[str, jax.Array]
Batch = Mapping[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes, and a checkpoint keeps."""

    step: jax.Array  # int32, steps done
    params: Any  # what is trained, float32
    opt_state: Any
    skipped: jax.Array  # int32, steps since the last one whose gradients were finite


@dataclasses.dataclass(frozen=True)
class NetworkTraining:
    """Steps and evaluations of one network.

    Args:
      params: what is trained, float32, at its start.
      assemble: (trained, frozen) -> the network; differentiable in the first.
      loss: (network, batch) -> Loss.
      optimizer: for `params`.
      frozen: what `assemble` needs besides, which does not change.
      accumulate: micro-batches a step; the rows of a batch are cut into so many.
      devices: to share rows over; the default device alone if not given.
    """

    params: Any
    assemble: Callable[[Any, Any], nnx.Module]
    loss: Callable[[nnx.Module, Batch], Loss]
    optimizer: optax.GradientTransformation
    frozen: Any = None
    accumulate: int = 1
    devices: Sequence[jax.Device] | None = None

    def init(self) -> TrainState:
        params = jax.tree.map(lambda array: jnp.array(array, jnp.float32), self.params)  # the step reuses its memory
        state = TrainState(jnp.int32(0), params, self.optimizer.init(params), jnp.int32(0))
        return self.put_on_devices(state)

    def put_on_devices(self, state: TrainState) -> TrainState:
        """The state on all devices."""
        return state if self._mesh is None else jax.device_put(state, NamedSharding(self._mesh, PartitionSpec()))

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        """One step. A batch whose gradients are not finite changes nothing but the counts.

        Returns:
          the new state, and float32 scalars: loss, the mean in nats; grad_norm, before clipping; skipped, 1 if the
          gradients were not finite.
        """
        return self._compiled_step(state, self._frozen, self._split(batch))

    def evaluate(self, state: TrainState, batch: Batch) -> Loss:
        """The loss of a batch."""
        return self._compiled_evaluation(state.params, self._frozen, self._split(batch))

    def module(self, state: TrainState) -> nnx.Module:
        """The network as it is now."""
        return self.assemble(jax.tree.map(np.asarray, state.params), self.frozen)

    @functools.cached_property
    def _mesh(self) -> Mesh | None:
        return None if self.devices is None else Mesh(np.array(self.devices), ("data",))

    @functools.cached_property
    def _frozen(self) -> Any:
        if self._mesh is None:
            return self.frozen
        return jax.device_put(self.frozen, NamedSharding(self._mesh, PartitionSpec()))

    @functools.cached_property
    def _compiled_step(self) -> Callable:
        return jax.jit(self._step, donate_argnums=0)

    @functools.cached_property
    def _compiled_evaluation(self) -> Callable:
        return jax.jit(lambda *arguments: self._loss_and_gradients(*arguments, gradients=False)[0])

    def _split(self, batch: Batch) -> Batch:
        """Rows [B, ...] as micro-batches [accumulate, B / accumulate, ...], on their devices."""
        rows = len(next(iter(batch.values())))
        check_rows(rows, self.accumulate, self.devices)
        cut = {
            name: np.reshape(array, (self.accumulate, rows // self.accumulate, *np.shape(array)[1:]))
            for name, array in batch.items()
        }
        if self._mesh is None:
            return cut
        return jax.device_put(cut, NamedSharding(self._mesh, PartitionSpec(None, "data")))

    def _step(self, state: TrainState, frozen: Any, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        loss, gradients = self._loss_and_gradients(state.params, frozen, batch, gradients=True)
        norm = optax.tree.norm(gradients)
        is_finite = jnp.isfinite(norm) & jnp.isfinite(loss.total)
        updates, opt_state = self.optimizer.update(gradients, state.opt_state, state.params)
        new = (optax.apply_updates(state.params, updates), opt_state)
        kept = jax.tree.map(lambda a, b: jnp.where(is_finite, a, b), new, (state.params, state.opt_state))
        skipped = jnp.where(is_finite, 0, state.skipped + 1)
        metrics = {"loss": loss.total / loss.count, "grad_norm": norm, "skipped": 1.0 - is_finite}
        return TrainState(state.step + 1, *kept, skipped), metrics

    def _loss_and_gradients(self, params: Any, frozen: Any, batch: Batch, *, gradients: bool) -> tuple[Loss, Any]:
        """Sums over micro-batches; the gradients are those of the mean."""

        def total(params: Any, part: Batch) -> tuple[jax.Array, jax.Array]:
            return self.loss(self.assemble(params, frozen), part)

        def add(sums: tuple[Loss, Any], part: Batch) -> tuple[tuple[Loss, Any], None]:
            if gradients:
                (part_total, count), part_gradients = jax.value_and_grad(total, has_aux=True)(params, part)
            else:
                (part_total, count), part_gradients = total(params, part), None
            return jax.tree.map(jnp.add, sums, (Loss(part_total, count), part_gradients)), None

        zero = Loss(jnp.float32(0), jnp.float32(0)), jax.tree.map(jnp.zeros_like, params) if gradients else None
        (loss, summed), _ = jax.lax.scan(add, zero, batch)
        return loss, jax.tree.map(lambda array: array / loss.count, summed)


def check_rows(n_rows: int, accumulate: int, devices: Sequence[jax.Device] | None) -> None:
    """Raises InputError where a batch cannot be shared out evenly."""
    n_devices = 1 if devices is None else len(devices)
    if n_rows % (accumulate * n_devices):
        raise InputError(
            f"a batch has {n_rows} rows, expected a multiple of {accumulate * n_devices}: {accumulate} micro-batches "
            f"on {n_devices} devices"
        )


def full_network(module: nnx.Module, make_module: Callable[[Any], nnx.Module], dtype: Any) -> tuple[dict, Callable]:
    """For training all of a network: its parameters, and the `assemble` that puts them back.

    Args:
      make_module: builds the module for a dtype, as for `model_folder.load_network`.
      dtype: to compute in.
    """
    graphdef, abstract = nnx.split(with_working_attention(nnx.eval_shape(lambda: make_module(jnp.dtype(dtype)))))
    names = [(".".join(map(str, path)), path, variable) for path, variable in nnx.to_flat_state(abstract)]
    values = dict(nnx.to_flat_state(nnx.state(module)))
    params = {name: np.asarray(values[path].get_value(), np.float32) for name, path, _ in names}

    def assemble(params: Arrays, frozen: None) -> nnx.Module:
        flat = [(path, variable.replace(_as_dtype(params[name], dtype))) for name, path, variable in names]
        return nnx.merge(graphdef, nnx.from_flat_state(flat))

    return params, assemble


def _as_dtype(array: jax.Array | np.ndarray, dtype: Any) -> jax.Array:
    """On the device in that dtype. The host rounds its own arrays: JAX would compile a program for each shape."""
    return jax.device_put(array.astype(dtype)) if isinstance(array, np.ndarray) else jnp.asarray(array, dtype)

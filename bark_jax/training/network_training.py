"""Steps and evaluations of one transformer: mixed precision, gradient accumulation and data parallelism.

The trained parameters are a pytree of float32 arrays: all parameters of the network by name, or the matrices of a LoRA
beside frozen parameters. A step casts them to the compute dtype, accumulates the gradients of its micro-batches, and
updates the float32 master copy.

On several devices the rows of each micro-batch are split, and XLA sums the gradients; `placement` says where the state
is. Losses are (sum, count) pairs, so micro-batches and devices change the mean by rounding only.
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

from bark_jax.errors import InputError
from bark_jax.networks.probes import with_working_attention
from bark_jax.training.losses import Loss
from bark_jax.training.placement import Placement, on_host, shapes_on

Arrays = Mapping[str, jax.Array]
Batch = Mapping[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes and a checkpoint stores."""

    step: jax.Array  # int32 [], steps done
    params: Any  # trained parameters, float32
    opt_state: Any
    skipped: jax.Array  # int32 [], consecutive steps with non-finite gradients, up to now


@dataclasses.dataclass(frozen=True)
class NetworkTraining:
    """Steps and evaluations of one network: a `loop.Training`.

    Args:
      make_params: makes the initial trained parameters, a pytree of float32 arrays. Each `init` calls it and drops its
        arrays once they are on the device.
      assemble: (params, frozen) -> network; differentiable in params.
      loss: (network, batch) -> Loss.
      optimizer: updates the parameters.
      frozen: further argument of `assemble`, which is not trained.
      accumulate: micro-batches a step; a batch's rows are cut into so many.
      devices: split the rows (data parallel); of this process or of all. None is JAX's default device.
      shard_state: divide the state among the devices, instead of having all of it on each; see `placement`.
    """

    make_params: Callable[[], Any]
    assemble: Callable[[Any, Any], nnx.Module]
    loss: Callable[[nnx.Module, Batch], Loss]
    optimizer: optax.GradientTransformation
    frozen: Any = None
    accumulate: int = 1
    devices: Sequence[jax.Device] | None = None
    shard_state: bool = False

    def init(self) -> TrainState:
        """The state before the first step, on the devices."""
        params = self.make_params()
        if self._placement.mesh is None:
            # A copy, because `step` donates its memory and the network that the arrays belong to must survive.
            return self._begin(jax.tree.map(lambda array: jnp.array(array, jnp.float32), params))
        # Copies too. Each device gets its share alone, and makes its share of the averages.
        params = self._placement.put_state(jax.tree.map(lambda array: np.array(array, np.float32), params))
        return jax.jit(self._begin, out_shardings=self._state_shardings)(params)

    def put_on_devices(self, state: TrainState) -> TrainState:
        """Puts a state onto the devices."""
        return self._placement.put_state(state)

    def _begin(self, params: Any) -> TrainState:
        return TrainState(jnp.int32(0), params, self.optimizer.init(params), jnp.int32(0))

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        """Trains on one batch. The memory of `state` is donated: do not use it afterwards.

        If the loss or a gradient is not finite, only state.step and state.skipped change.

        Returns:
          the new state, and metrics, float32 of shape (): loss, the mean in nats; grad_norm, the gradient norm before
          clipping; skipped, 1 if the step was skipped, else 0.

        Raises:
          InputError: the rows cannot be split evenly over micro-batches and devices.
        """
        return self._compiled_step(state, self._frozen, self._split(batch))

    def trace(self, batch: Batch, sharding: jax.sharding.Sharding | None = None) -> jax.stages.Traced:
        """Traces `step` for the shapes of a batch, and runs nothing. `.lower().compile()` has its bytes and FLOPs.

        Args:
          sharding: of all arguments, on devices that need not be here. None has those of `step`.

        Raises:
          InputError: as `step`.
        """
        arguments = (self.state_shapes, self._frozen, self._split(batch))
        if sharding is not None:
            arguments = shapes_on(sharding, arguments)
        elif self._placement.mesh is not None:
            state = jax.tree.map(lambda x, sharding: shapes_on(sharding, x), arguments[0], self._state_shardings)
            arguments = (state, *arguments[1:])
        return self._compiled_step.trace(*arguments)

    def evaluate(self, state: TrainState, batch: Batch) -> Loss:
        """The loss of a batch, without an update."""
        return self._compiled_evaluation(state.params, self._frozen, self._split(batch))

    def module(self, state: TrainState) -> nnx.Module:
        """The network with the state's parameters, in the dtype of `assemble`."""
        return self.assemble(on_host(state.params), self.frozen)

    @functools.cached_property
    def _placement(self) -> Placement:
        return Placement(self.devices, is_divided=self.shard_state)

    @functools.cached_property
    def _state_shardings(self) -> TrainState:
        return self._placement.state_shardings(self.state_shapes)

    @functools.cached_property
    def state_shapes(self) -> TrainState:
        """Shapes of `init`'s state."""
        shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(np.shape(array), jnp.float32), self.make_params())
        return jax.eval_shape(self._begin, shapes)

    @functools.cached_property
    def _frozen(self) -> Any:
        return self._placement.put_everywhere(self.frozen)

    @functools.cached_property
    def _compiled_step(self) -> Callable:
        # XLA could choose another sharding of the new state, and the next step compile again.
        options = {"out_shardings": (self._state_shardings, None)} if self.shard_state else {}
        return jax.jit(self._step, donate_argnums=0, **options)

    @functools.cached_property
    def _compiled_evaluation(self) -> Callable:
        return jax.jit(lambda *arguments: self._loss_and_gradients(*arguments, gradients=False)[0])

    def _split(self, batch: Batch) -> Batch:
        """Reshapes rows [B, ...] to micro-batches [accumulate, B / accumulate, ...] and shards their second axis."""
        rows = len(next(iter(batch.values())))
        check_rows(rows, self.accumulate, self.devices)
        cut = {
            name: np.reshape(array, (self.accumulate, rows // self.accumulate, *np.shape(array)[1:]))
            for name, array in batch.items()
        }
        return self._placement.put_batch(cut)

    def _step(self, state: TrainState, frozen: Any, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        loss, gradients = self._loss_and_gradients(state.params, frozen, batch, gradients=True)
        norm = optax.tree.norm(gradients)
        is_finite = jnp.isfinite(norm) & jnp.isfinite(loss.total)
        updates, opt_state = self.optimizer.update(gradients, state.opt_state, state.params)
        new = (optax.apply_updates(state.params, updates), opt_state)
        # The optimizer's state is kept too: one NaN in Adam's averages would stay in them for ever.
        kept = jax.tree.map(lambda a, b: jnp.where(is_finite, a, b), new, (state.params, state.opt_state))
        skipped = jnp.where(is_finite, 0, state.skipped + 1)
        metrics = {"loss": loss.total / loss.count, "grad_norm": norm, "skipped": 1.0 - is_finite}
        return TrainState(state.step + 1, *kept, skipped), metrics

    def _loss_and_gradients(self, params: Any, frozen: Any, batch: Batch, *, gradients: bool) -> tuple[Loss, Any]:
        """(summed loss over all micro-batches, gradients of the mean loss; None if `gradients` is False)."""

        def total(params: Any, part: Batch) -> tuple[jax.Array, jax.Array]:
            # `assemble` casts inside the differentiated function, so gradients are float32, as the master weights are.
            return self.loss(self._placement.gathered(self.assemble(params, frozen)), part)

        def add(sums: tuple[Loss, Any], part: Batch) -> tuple[tuple[Loss, Any], None]:
            if gradients:
                (part_total, count), part_gradients = jax.value_and_grad(total, has_aux=True)(params, part)
                part_gradients = self._placement.divided(part_gradients)
            else:
                (part_total, count), part_gradients = total(params, part), None
            return jax.tree.map(jnp.add, sums, (Loss(part_total, count), part_gradients)), None

        zeros = self._placement.divided(jax.tree.map(jnp.zeros_like, params)) if gradients else None
        zero = Loss(jnp.float32(0), jnp.float32(0)), zeros
        (loss, summed), _ = jax.lax.scan(add, zero, batch)
        # Divided once, at the end: a mean of the micro-batches' means would weigh targets of short ones more.
        return loss, jax.tree.map(lambda array: array / loss.count, summed)


def check_rows(n_rows: int, accumulate: int, devices: Sequence[jax.Device] | None) -> None:
    """Raises InputError unless n_rows is a multiple of micro-batches times devices."""
    n_devices = 1 if devices is None else len(devices)
    if n_rows % (accumulate * n_devices):
        raise InputError(
            f"a batch has {n_rows} rows, expected a multiple of {accumulate * n_devices}: {accumulate} micro-batches "
            f"on {n_devices} devices"
        )


def full_network(
    module: nnx.Module, make_module: Callable[[Any], nnx.Module], dtype: Any
) -> tuple[Callable[[], dict[str, np.ndarray]], Callable]:
    """Splits a network for full training: (`make_params`, `assemble`, which reverses it).

    make_params() gives the parameters by name, float32 numpy arrays of the module's shapes, read at each call.

    Args:
      module: the network.
      make_module: dtype -> module with the same parameters, as for `model_folder.load_network`.
      dtype: compute dtype, to which `assemble` casts the parameters.
    """
    graphdef, abstract = nnx.split(with_working_attention(nnx.eval_shape(lambda: make_module(jnp.dtype(dtype)))))
    names = [(".".join(map(str, path)), path, variable) for path, variable in nnx.to_flat_state(abstract)]
    values = dict(nnx.to_flat_state(nnx.state(module)))

    def make_params() -> dict[str, np.ndarray]:
        return {name: host_array(values[path].get_value()).astype(np.float32, copy=False) for name, path, _ in names}

    def assemble(params: Arrays, frozen: None) -> nnx.Module:
        flat = [(path, variable.replace(_as_dtype(params[name], dtype))) for name, path, variable in names]
        return nnx.merge(graphdef, nnx.from_flat_state(flat))

    return make_params, assemble


def host_array(array: jax.Array | np.ndarray) -> np.ndarray:
    """The array in numpy, of the same shape and dtype.

    np.asarray alone would leave a second copy in host memory for as long as an array of an accelerator lives.
    """
    if isinstance(array, jax.Array) and len(array.sharding.device_set) == 1:
        array = array.addressable_data(0)  # shares the memory; the copy is kept in this object, and goes with it
    return np.asarray(array)


def _as_dtype(array: jax.Array | np.ndarray, dtype: Any) -> jax.Array:
    """Casts to the dtype, on the device. numpy casts host arrays: JAX would compile a program for each shape."""
    return jax.device_put(array.astype(dtype)) if isinstance(array, np.ndarray) else jnp.asarray(array, dtype)

"""Random networks with numpy-drawn weights, and XLA options that compile fast, for tests of small networks.

The initialisers of a network are a program for each shape, and an operation outside `jax.jit` is one too.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx


def _find_options() -> dict[str, int | bool]:
    """XLA options that compile four to eight times as fast as the defaults, to slower programs."""
    portable = {"xla_backend_optimization_level": 0}
    fastest = portable | {
        "xla_llvm_disable_expensive_passes": True,
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,
    }
    try:
        jax.jit(lambda: 0, compiler_options=fastest).lower().compile()
    except jax.errors.JaxRuntimeError:  # this XLA lacks one of the options
        return portable
    return fastest


jit = functools.partial(jax.jit, compiler_options=_find_options())


def drawn(make: Callable[[], nnx.Module], deviation: float = 0.2, seed: int = 0) -> nnx.Module:
    """A module with random weights; its scales lie about 1, its biases about 0."""
    rng, module = np.random.default_rng(seed), nnx.eval_shape(make)
    state = nnx.to_flat_state(nnx.state(module, nnx.Param))
    nnx.update(module, nnx.from_flat_state([(path, _drawn(path[-1], shape, deviation, rng)) for path, shape in state]))
    return module


def _drawn(name: str, shape: nnx.Variable, deviation: float, rng: np.random.Generator) -> nnx.Variable:
    values = (0.1 if name in ("bias", "scale") else deviation) * rng.standard_normal(shape.shape) + (name == "scale")
    return shape.replace(as_dtype(values, shape.dtype))


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    return as_dtype(rng.standard_normal(shape), dtype)


def as_dtype(values: np.ndarray, dtype: jnp.dtype) -> jax.Array:
    """Casts by numpy and copies to the device: `jnp.asarray` would compile a program for each shape."""
    return jax.device_put(np.asarray(values, np.float32).astype(dtype))


def in_numpy(function: Callable) -> Callable:
    """The function with its results as numpy arrays, on which operations compile nothing."""
    return lambda *args, **options: jax.tree.map(np.asarray, function(*args, **options))


def begin_at_once(training_class: type, patch: pytest.MonkeyPatch, prepare: Callable = lambda training: None) -> None:
    """Patches a training's `init` to compile one program, not one for each shape of its parameters.

    Args:
      prepare: computes what `init` keeps, as nothing from within a trace may be kept.
    """
    init = training_class.init

    def init_at_once(self):
        self.put_on_devices(0)  # computes cached properties outside of the trace
        prepare(self)
        return self.put_on_devices(jit(lambda: init(self))())

    patch.setattr(training_class, "init", init_at_once)

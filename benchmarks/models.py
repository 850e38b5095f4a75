"""A Bark of a published size with random weights, drawn where it runs: what takes time depends on sizes alone."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax.config import BarkConfig, BarkGenerationConfig
from bark_jax.model import BarkModel
from bark_jax.networks.int8 import quantize
from bark_jax.networks.probes import with_working_attention
from bark_jax.stage_models import BarkCoarseModel, BarkFineModel, BarkSemanticModel, EncodecModel

SIZES = ("small", "large", "toy")
_STANDARD_DEVIATION = 0.02


def make_config(size: str) -> BarkConfig:
    """The sizes of "small" and "large" as published; "toy" is for the benchmarks' own test."""
    if size == "large":
        return BarkConfig.large()
    config = BarkConfig.small()
    if size == "small":
        return config
    parts = {
        name: dataclasses.replace(getattr(config, name), num_layers=2, num_heads=2, hidden_size=32)
        for name in ("semantic_config", "coarse_acoustics_config", "fine_acoustics_config")
    }
    return dataclasses.replace(config, **parts)


def make_model(size: str, dtype: str) -> BarkModel:
    """This project's model on JAX's default device."""
    config = make_config(size)
    networks = {
        "semantic": (BarkSemanticModel, config.semantic_config),
        "coarse_acoustics": (BarkCoarseModel, config.coarse_acoustics_config),
        "fine_acoustics": (BarkFineModel, config.fine_acoustics_config),
        "codec_model": (EncodecModel, config.codec_config),
    }
    made = {
        name: with_working_attention(
            _draw(lambda make=make, part=part: make(part, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0)))
        )
        for name, (make, part) in networks.items()
    }
    return BarkModel(config, BarkGenerationConfig(), **made)


def with_int8(model: BarkModel) -> BarkModel:
    """The model with transformers of eight bits, the rest shared."""
    networks = [nnx.merge(*nnx.split(each)) for each in (model.semantic, model.coarse_acoustics, model.fine_acoustics)]
    for network in networks:
        quantize(network)
    return BarkModel(model.config, model.generation_config, *networks, model.codec_model)


def _draw(make: Any) -> Any:
    graph, shapes = nnx.split(nnx.eval_shape(make))
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [_draw_array(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]
    return nnx.merge(graph, jax.tree.unflatten(tree, drawn))


def _draw_array(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    if len(shape) == 1:  # scales and biases
        return jnp.ones(shape, dtype)
    return (_STANDARD_DEVIATION * jax.random.normal(key, shape)).astype(dtype)


def weight_bytes(model: BarkModel) -> int:
    networks = (model.semantic, model.coarse_acoustics, model.fine_acoustics, model.codec_model)
    return sum(leaf.nbytes for network in networks for leaf in jax.tree.leaves(network))


@dataclasses.dataclass(frozen=True)
class Shape:
    """The causal networks' sizes, which the floors follow from."""

    n_layers: int
    width: int
    weight_bytes: int  # of one
    cache_bytes: int

    @classmethod
    def of(cls, size: str, dtype: str, has_int8: bool = False) -> "Shape":
        part = make_config(size).semantic_config
        n_bytes = jnp.dtype(dtype).itemsize
        return cls(part.num_layers, part.hidden_size, 1 if has_int8 else n_bytes, n_bytes)

    def step_bytes(self, n_rows: int, n_keys: float, n_outputs: int) -> float:
        """Bytes that a decoding step cannot but read: the weights once, and each row's keys and values."""
        weights = 12 * self.width**2 * self.n_layers + self.width * n_outputs
        cache = 2 * n_rows * self.n_layers * self.width * (n_keys + 1)
        return self.weight_bytes * weights + self.cache_bytes * cache


def measure_bandwidth() -> tuple[float, str]:
    """Bytes a second that the default device moves, and how that was measured: the best of several runs."""
    from benchmarks.timing import best_s

    if jax.default_backend() == "cpu":
        # Reading is what a step does; one row times a matrix reads as fast as XLA does here.
        matrix, row = jnp.ones((25_000, 4_000)), jnp.ones((1, 4_000))
        product = jax.jit(lambda row, matrix: row @ matrix.T)
        return matrix.nbytes / best_s(lambda: product(row, matrix).block_until_ready()), "reading a matrix"
    array = jnp.ones(2**28)
    copy = jax.jit(lambda array: array + 1)
    return 2 * array.nbytes / best_s(lambda: copy(array).block_until_ready()), "a copy, read and written"


def step_floor_ms(shape: Shape, n_rows: int, n_keys: float, n_outputs: int, bandwidth: float) -> float:
    """Least milliseconds of a decoding step; NaN without a bandwidth."""
    return math.nan if not bandwidth else 1e3 * shape.step_bytes(n_rows, n_keys, n_outputs) / bandwidth

"""Models of the published sizes with random weights, and the floor of a decoding step: bytes over memory bandwidth.

Speed depends on sizes alone, so random weights will do. They are drawn on the device.
"""

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

SIZES = ("small", "large", "toy", "smoke")
_STANDARD_DEVIATION = 0.02


def make_config(size: str) -> BarkConfig:
    """The config of a size: "small" and "large" as published; "toy" has narrow transformers.

    "smoke" has a narrow codec too and is for tests: most of a toy's time is its codec's.
    """
    if size == "large":
        return BarkConfig.large()
    config = BarkConfig.small()
    if size == "small":
        return config
    parts = {
        name: dataclasses.replace(getattr(config, name), num_layers=2, num_heads=2, hidden_size=32)
        for name in ("semantic_config", "coarse_acoustics_config", "fine_acoustics_config")
    }
    if size == "smoke":
        parts["codec_config"] = dataclasses.replace(config.codec_config, num_filters=2)
    return dataclasses.replace(config, **parts)


def make_model(size: str, dtype: str) -> BarkModel:
    """This project's model of a size, with random weights of a dtype, on JAX's default device."""
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
    """The model with its transformers quantised to int8 weights; the codec is shared."""
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
    """Bytes of all weights, codec included."""
    networks = (model.semantic, model.coarse_acoustics, model.fine_acoustics, model.codec_model)
    return sum(leaf.nbytes for network in networks for leaf in jax.tree.leaves(network))


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of the causal networks that decide the floor of a step."""

    n_layers: int
    width: int
    weight_bytes: int  # of one weight
    cache_bytes: int  # of one number of the KV cache

    @classmethod
    def of(cls, size: str, dtype: str, has_int8: bool = False) -> "Shape":
        """The shape of a size and dtype; has_int8 counts 1 byte a weight, without the scales."""
        part = make_config(size).semantic_config
        n_bytes = jnp.dtype(dtype).itemsize
        return cls(part.num_layers, part.hidden_size, 1 if has_int8 else n_bytes, n_bytes)

    def step_bytes(self, n_rows: int, n_keys: float, n_outputs: int) -> float:
        """Minimum bytes that a decoding step reads: the weights once, and each row's keys and values.

        A layer has 12 * width^2 weights: 3 for query, key and value, 1 for the output, 4 + 4 for the MLP.
        """
        weights = 12 * self.width**2 * self.n_layers + self.width * n_outputs
        cache = 2 * n_rows * self.n_layers * self.width * (n_keys + 1)
        return self.weight_bytes * weights + self.cache_bytes * cache


def measure_bandwidth() -> tuple[float, str]:
    """Memory bandwidth of the default device: (bytes a second, how it was measured). Best of several runs."""
    from benchmarks.timing import best_s

    if jax.default_backend() == "cpu":
        # A step mostly reads weights, and a vector times a matrix is XLA's fastest way to read memory on a CPU.
        matrix, row = jnp.ones((25_000, 4_000)), jnp.ones((1, 4_000))
        product = jax.jit(lambda row, matrix: row @ matrix.T)
        return matrix.nbytes / best_s(lambda: product(row, matrix).block_until_ready()), "reading a matrix"
    array = jnp.ones(2**28)
    copy = jax.jit(lambda array: array + 1)
    return 2 * array.nbytes / best_s(lambda: copy(array).block_until_ready()), "a copy, read and written"


def step_floor_ms(shape: Shape, n_rows: int, n_keys: float, n_outputs: int, bandwidth: float) -> float:
    """Minimum milliseconds of a decoding step at a memory bandwidth in bytes a second; NaN if the bandwidth is 0."""
    return math.nan if not bandwidth else 1e3 * shape.step_bytes(n_rows, n_keys, n_outputs) / bandwidth

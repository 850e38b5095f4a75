"""A stage's program for one platform, by `jax.export`, with the network's weights as named inputs.

At the boundary of a program are plain dicts of arrays: modules and the stages' dataclasses are made inside of it. So
JAX can write it to a file, and who reads it needs no class of this package.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax.errors import UnsupportedError
from bark_jax.generation.rows import MAX_ROWS
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.networks.attention import (
    cudnn_obstacle,
    for_platform,
    resolve,
    with_implementations,
)
from bark_jax.networks.causal import BarkCausalModel
from bark_jax.networks.codec.encodec import Codec
from bark_jax.networks.int8 import is_quantized
from bark_jax.networks.layout import is_faster_transposed, with_transposed_weights
from bark_jax.stablehlo.programs import ROWS, Array, Arrays, Program

# Names of `jax.export`, and the platform for which a network is traced there.
PLATFORMS: Mapping[str, str] = {"cpu": "cpu", "cuda": "gpu", "rocm": "gpu", "tpu": "tpu"}
ATTENTION = ("xla", "cudnn")
TRANSPOSED = ".transposed"  # ends the names of weights in a causal network's second layout

# cuDNN's attention as `jax.nn.dot_product_attention` calls it in these networks: no bias, no dropout. JAX does not
# promise that a later version runs a stored call, and exports it only if it is named.
CUDNN_CALLS = ("__cudnn$fmhaSoftmax",)
# JAX's own call that fixes the layout of a TPU's KV cache, of which it makes no promise either.
LAYOUT_CALLS = ("LayoutConstraint",)


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A program and the weights that it takes, by name."""

    exported: jax.export.Exported
    weights: Mapping[str, jax.Array]
    custom_calls: tuple[str, ...]  # of which JAX does not promise that a later version runs them


@dataclasses.dataclass(frozen=True)
class Target:
    """Platforms, rows and attention that programs are made for."""

    platforms: tuple[str, ...]  # of PLATFORMS
    rows: int | None  # rows of a batch; None for any number
    attention: str  # of ATTENTION; the platforms other than cuda have XLA's

    @property
    def n_rows(self) -> int:
        """Rows by which the layout of weights is chosen: for any number of rows, that of many."""
        return MAX_ROWS if self.rows is None else self.rows

    def attention_on(self, platform: str) -> str:
        """Name of the attention on a platform of PLATFORMS."""
        return self.attention if platform == "cuda" else "xla"


def check_network(network: Any, target: Target) -> None:
    """Raises UnsupportedError where a network cannot be exported for the target; the message says what can."""
    if isinstance(network, Codec):
        _check_codec(network)
        return
    if is_quantized(network):
        _check_int8(network, target)
    if target.attention == "cudnn":
        _check_cudnn(network, target)


def _check_codec(network: Codec) -> None:
    config = network.config
    if not config.use_causal_conv or config.norm_type != "weight_norm":
        raise UnsupportedError(
            "the codec looks ahead (use_causal_conv is false, or norm_type is 'time_group_norm'), so a row's audio "
            "would depend on the padding of its batch; it is not exported"
        )


def _check_int8(network: Any, target: Target) -> None:
    if any((network.platform == "cpu") != (platform == "cpu") for platform in target.platforms):
        raise UnsupportedError(
            "the activations of an int8 model are float32 on a CPU and bfloat16 elsewhere, so one set of weights does "
            "not serve both: export the CPU's programs and the others to folders of their own"
        )
    if target.rows is None and "cpu" in target.platforms:
        raise UnsupportedError(
            "the int8 products of a CPU are chosen by the number of rows, so a program has a fixed one: give rows "
            "(--rows)"
        )


def _check_cudnn(network: Any, target: Target) -> None:
    if "cuda" not in target.platforms:
        raise UnsupportedError("cuDNN's attention is for the platform cuda alone; add it, or take 'xla'")
    if (obstacle := cudnn_obstacle("gpu", network.position_embedding.param_dtype)) is not None:
        raise UnsupportedError(f"cuDNN's attention cannot serve this model: {obstacle}; give dtype='bfloat16'")
    # JAX would write such a program, with a call whose description has -2**63 as its number of rows.
    if target.rows is None:
        raise UnsupportedError("a call of cuDNN has a fixed number of rows: give rows (--rows), or take 'xla'")


def network_for(network: Any, platform: str, target: Target) -> Any:
    """Returns the network as it runs on a platform of the target; it shares the arrays of the one given.

    Raises UnsupportedError for cuDNN's attention with a dtype that it does not take.
    """
    network = for_platform(network, PLATFORMS[platform])
    if isinstance(network, Codec):
        return network
    name = target.attention_on(platform)
    dtype = network.position_embedding.param_dtype
    network = with_implementations(network, resolve(name, network.platform, dtype, network.config.head_size))
    return with_transposed_weights(network) if has_transposed(network, target.n_rows) else network


def has_transposed(network: Any, n_rows: int) -> bool:
    """Whether decoding n_rows rows reads the second layout of a causal network's weights, as generation does."""
    return isinstance(network, BarkCausalModel) and network.keeps_copy and bool(is_faster_transposed(network, n_rows))


def weights_of(network: Any, spaces: TokenSpaces) -> dict[str, jax.Array]:
    """The arrays that a network's program reads, of the module's shapes, by path: `blocks.0.attention.qkv.kernel`."""
    is_codec = isinstance(network, Codec)
    return {
        name: variable.get_value()
        for name, variable in _variables(network)
        if not is_codec or _is_read_by_decoder(name, spaces)
    }


def _is_read_by_decoder(name: str, spaces: TokenSpaces) -> bool:
    """Whether decoding reads an array of the codec: its decoder, and the codebooks that the fine stage fills."""
    first, *rest = name.split(".")
    return first == "decoder" or (first == "quantizer" and int(rest[1]) < spaces.n_fine)


def _variables(network: Any) -> list[tuple[str, nnx.Variable[jax.Array]]]:
    return [(".".join(map(str, path)), variable) for path, variable in nnx.to_flat_state(nnx.state(network))]


def lower(network: Any, program: Program, platform: str, rows: int | None, spaces: TokenSpaces) -> Lowered:
    """Lowers a stage's program for a platform; no device of that platform is needed.

    Args:
      network: from `network_for`, for the same platform and number of rows.
      rows: rows of a batch; None for any number.

    Raises:
      UnsupportedError: JAX cannot lower the program here; the message has the reason.
    """
    graphdef, state = nnx.split(network)
    flat = nnx.to_flat_state(state)
    weights = weights_of(network, spaces)

    def run(weights: Arrays, inputs: Arrays) -> Arrays:
        # Arrays that the program does not read are no inputs. Their variables stay, as the module's graph has them.
        filled = [(path, variable.replace(weights.get(".".join(map(str, path))))) for path, variable in flat]
        return program.run(nnx.merge(graphdef, nnx.from_flat_state(filled)), inputs)

    calls = unstable_calls(network)
    checks = [jax.export.DisabledSafetyCheck.custom_call(call) for call in calls]
    export = jax.export.export(jax.jit(run), platforms=[platform], disabled_checks=checks)
    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in weights.items()}
    try:
        with _no_paths():
            exported = export(shapes, abstract(program.inputs, rows))
    except (RuntimeError, NotImplementedError, ValueError) as error:
        if calls != CUDNN_CALLS:
            raise
        # JAX asks for the cuDNN of this machine when it traces a call of it.
        raise UnsupportedError(
            f"cuDNN's attention cannot be exported on this machine: {str(error).rstrip('.')}. Export where cuDNN is "
            "installed, or take attn_implementation 'xla'"
        ) from error
    return Lowered(exported, weights, calls)


@contextlib.contextmanager
def _no_paths() -> Iterator[None]:
    """Keeps paths and line numbers of this machine out of programs, which are then the same wherever they are made."""
    name = "jax_traceback_in_locations_limit"
    limit = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, limit)


def unstable_calls(network: Any) -> tuple[str, ...]:
    """Names of the custom calls in a network's program of which JAX does not promise that a later version runs them."""
    if isinstance(network, Codec):
        return ()
    if "cudnn" in network.blocks[0].attention.implementations:
        return CUDNN_CALLS
    return LAYOUT_CALLS if network.platform == "tpu" and isinstance(network, BarkCausalModel) else ()


def abstract(arrays: Mapping[str, Array], rows: int | None) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a program's inputs, [rows, ...], with symbolic sizes for `rows` None and for FRAMES."""
    scope = jax.export.SymbolicScope()
    given = {} if rows is None else {ROWS: str(rows)}
    return {
        name: jax.ShapeDtypeStruct(
            jax.export.symbolic_shape(
                ",".join(given.get(str(size), str(size)) for size in array.shape) + ",", scope=scope
            ),
            jnp.dtype(array.dtype),
        )
        for name, array in arrays.items()
    }

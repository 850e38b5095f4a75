"""Every compiled program of a model of any size, traced from shapes: no weights are drawn, and nothing is compiled.

The programs are those of the stages for a batch, of the engine, and of a training step of each network. A caller lowers
them for a device that this machine lacks.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from bark_jax.checkpoints.load import FoundModel
from bark_jax.config import BarkGenerationConfig
from bark_jax.generation import coarse, engine, fine, semantic
from bark_jax.generation.codec import FRAMES_STEP, decode_padded
from bark_jax.generation.sampling import Sampling, key_data
from bark_jax.generation.settings import StageSampling
from bark_jax.generation.slots import ROWS_AT_ONCE
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.model import BarkModel
from bark_jax.networks.attention import KVCache
from bark_jax.networks.causal import BarkCausalModel
from bark_jax.networks.int8 import quantize
from bark_jax.networks.layout import is_faster_transposed, with_transposed_weights
from bark_jax.stage_models import BarkCoarseModel, BarkFineModel, BarkSemanticModel, EncodecModel
from bark_jax.tiny import FOLDER
from bark_jax.training.codec_training import CodecSettings
from bark_jax.training.loop import RunSettings
from bark_jax.training.optimizer import OptimizerSettings
from bark_jax.training.placement import shapes_on
from bark_jax.training.stage_training import STAGES, StageSettings, make_training
from benchmarks.models import make_config
from benchmarks.training_memory import codec_step, longest_examples

SIZES = ("tiny", "small", "large")
NETWORKS = {
    "semantic": (BarkSemanticModel, "semantic_config"),
    "coarse_acoustics": (BarkCoarseModel, "coarse_acoustics_config"),
    "fine_acoustics": (BarkFineModel, "fine_acoustics_config"),
    "codec_model": (EncodecModel, "codec_config"),
}


Put = Callable[[Any], Any]  # a tree's arrays as shapes, on devices


class Program(NamedTuple):
    """A program of a model, not traced yet."""

    name: str
    weights: Any  # shapes of the arguments whose number does not depend on the rows
    n_rows: int
    cache: KVCache | None  # shapes of the KV cache that it takes or makes
    trace: Callable[[], jax.stages.Traced]


def model_of_shapes(size: str, dtype: str, platform: str, attn_implementation: str = "auto") -> BarkModel:
    """A model whose arrays are shapes. size: one of SIZES; dtype: "int8" too."""
    config, generation_config = make_config("small" if size == "tiny" else size), BarkGenerationConfig()
    if size == "tiny":
        _, config, generation_config = FoundModel.read(FOLDER)
    networks = {}
    for name, (make, field) in NETWORKS.items():
        make = functools.partial(make, getattr(config, field), platform=platform)
        is_int8, has_blocks = dtype == "int8", name != "codec_model"
        make = functools.partial(make, dtype=jnp.dtype("bfloat16" if is_int8 else dtype))
        if has_blocks:
            make = functools.partial(make, attn_implementation=attn_implementation)
        networks[name] = nnx.eval_shape(functools.partial(_made, make, is_int8 and has_blocks))
    return BarkModel(config, generation_config, **networks)


def _made(make: Callable[..., nnx.Module], is_int8: bool) -> nnx.Module:
    network = make(rngs=nnx.Rngs(0))
    if is_int8:
        quantize(network)
    return network


def laid_out(network: BarkCausalModel, n_rows: int) -> BarkCausalModel:
    """`layout.for_decoding` of a network of shapes."""
    if not is_faster_transposed(network, n_rows):
        return network
    return nnx.eval_shape(with_transposed_weights, network)


def stages(model: BarkModel, n_rows: int, device: jax.Device | None = None) -> Iterator[Program]:
    """The programs that generate a batch of n_rows, as wide as the model's longest texts and clips need.

    Args:
      device: of the arguments; None where a program is only lowered.
    """
    put = functools.partial(shapes_on, None if device is None else SingleDeviceSharding(device))
    spaces, n_steps = model.spaces, (np.int32(0),)  # steps or windows, a traced argument
    for name, start, run, rows in (
        ("semantic", semantic.start, semantic.run_steps, _semantic_rows(model, n_rows)),
        ("coarse", coarse.start, coarse.run_windows, _coarse_rows(model, n_rows)),
    ):
        trace = functools.partial(start.trace, put(rows.network), put(rows.prompt), spaces=spaces)
        yield Program(f"{name} prompt", rows.network, n_rows, rows.state.cache, trace)
        yield _loop(f"{name} loop", run, rows, spaces, put, put, n_steps)

    n_frames = spaces.n_frames(spaces.max_semantic)
    known = [np.zeros((spaces.n_coarse, n_frames), np.int32)] * n_rows
    arguments = put((model.fine_acoustics, fine.make_prompt(known, [None] * n_rows, spaces), _sampling(n_rows)))
    trace = functools.partial(fine.generate_fine.trace, *arguments, spaces=spaces)
    yield Program("fine", model.fine_acoustics, n_rows, None, trace)

    n_columns = -(-n_frames // FRAMES_STEP) * FRAMES_STEP
    codes_BQT, length_B = np.zeros((n_rows, spaces.n_fine, n_columns), np.int32), np.zeros(n_rows, np.int32)
    trace = functools.partial(decode_padded.trace, *put((model.codec_model, codes_BQT, length_B)))
    yield Program("codec", model.codec_model, n_rows, None, trace)


def engine_programs(model: BarkModel, n_slots: int, devices: list[jax.Device]) -> Iterator[Program]:
    """The engine's own programs: a chunk of each loop, and rows that enter slots; on devices that need not be here."""
    mesh = Mesh(np.array(devices), ("data",))
    put, put_rows = (functools.partial(shapes_on, NamedSharding(mesh, spec)) for spec in (P(), P("data")))
    functions, n_group = engine.stage_functions(mesh), ROWS_AT_ONCE * len(devices)
    for name, run, make_rows in (
        ("semantic chunk", functions.run_semantic, _semantic_rows),
        ("coarse window", functions.run_coarse, _coarse_rows),
    ):
        rows, entering = make_rows(model, n_slots), make_rows(model, n_group)
        yield _loop(f"engine, {name}", run, rows, model.spaces, put, put_rows, ())
        states = ((each.prompt, _sampling(len(each.state.cache.length_B)), each.state) for each in (rows, entering))
        trace = functools.partial(engine.insert.trace, *map(put_rows, states), put(np.zeros(n_group, np.int32)))
        yield Program(f"engine, rows into slots before a {name}", (), n_slots, rows.state.cache, trace)


def training_steps(model: BarkModel, n_rows: int, device: jax.Device) -> Iterator[Program]:
    """A step of each network in full: transformers in bfloat16 with n_rows, the codec with its default rows."""
    sharding = SingleDeviceSharding(device)
    dataset, settings = longest_examples(model, n_rows), StageSettings(dtype="bfloat16", batch_size=n_rows)
    model = model.replace(**{name: _zeros(getattr(model, name)) for name in NETWORKS})
    for name in STAGES:
        training = make_training(model, name, settings, OptimizerSettings(), RunSettings(n_steps=1), None)
        batches = STAGES[name].make_batches(dataset, batch_size=n_rows, seed=0, spaces=model.spaces)
        trace = functools.partial(training.trace, batches(0), sharding)
        yield Program(f"training step, {name}", training.state_shapes, n_rows, None, trace)
    settings = CodecSettings()
    training, batch = codec_step(model, settings)  # on this machine; `trace` takes shapes to another
    state, trace = jax.eval_shape(training.init), functools.partial(training.trace, batch, sharding)
    yield Program("training step, codec_model", state, settings.batch_size, None, trace)


def _loop(
    name: str, run: Any, rows: "_Rows", spaces: TokenSpaces, put: Put, put_rows: Put, n_steps: tuple[Any, ...]
) -> Program:
    """The program of a decoding loop. n_steps: its number, where that is an argument."""
    n_rows = len(rows.state.cache.length_B)
    arguments = put(rows.network), *put_rows((rows.prompt, _sampling(n_rows), rows.state)), *put(n_steps)
    trace = functools.partial(run.trace, *arguments, spaces=spaces)
    return Program(name, rows.network, n_rows, rows.state.cache, trace)


class _Rows(NamedTuple):
    """A stage's network, prompt and state, of shapes."""

    network: BarkCausalModel
    prompt: Any
    state: Any


def _semantic_rows(model: BarkModel, n_rows: int) -> _Rows:
    text = np.zeros(model.spaces.n_text, np.int32)
    row = semantic.SemanticRow(text, text, model.spaces.max_semantic)
    prompt = semantic.make_prompt([row] * n_rows, model.spaces)
    network = laid_out(model.semantic, n_rows)
    start = functools.partial(semantic.start, spaces=model.spaces)
    return _Rows(network, prompt, jax.eval_shape(start, network, prompt))


def _coarse_rows(model: BarkModel, n_rows: int) -> _Rows:
    tokens = np.zeros(model.spaces.max_semantic, np.int32)
    prompt = coarse.make_prompt([tokens] * n_rows, [None] * n_rows, model.spaces)
    network = laid_out(model.coarse_acoustics, n_rows)
    start = functools.partial(coarse.start, spaces=model.spaces)
    return _Rows(network, prompt, jax.eval_shape(start, network, prompt))


def _sampling(n_rows: int) -> Sampling:
    return Sampling.stack([StageSampling(temperature=0.7)] * n_rows, np.stack([key_data(0)] * n_rows))


def _zeros(network: nnx.Module) -> nnx.Module:
    """The network with float32 zeros that take no memory: one number each, repeated by a stride of 0."""
    return jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), network)

"""Compiles every program for a TPU that is not here, and counts the memory that each takes, by XLA's own analysis.

It needs libtpu, which compiles for a topology by name and runs nothing:

    pip install "jax[tpu]"
    JAX_PLATFORMS=cpu python -m benchmarks tpu
"""

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax

from bark_jax.errors import UnsupportedError
from bark_jax.networks.platform import describe_failure
from benchmarks.programs import Program, engine_programs, model_of_shapes, stages, training_steps

TOPOLOGY = "v5e:2x2"  # the smallest that libtpu knows of this TPU; programs are compiled for one device of it
DEVICE_BYTES = 16e9  # of a v5e
# What libtpu would ask of the machine that it runs on, which is none.
WITHOUT_MACHINE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several processes may compile: none of them holds a chip
}


class Costs(NamedTuple):
    """A compiled program's costs. FLOPs count the body of a loop once."""

    seconds: float  # processor time of compilation, all cores
    flops: float
    arguments: int  # bytes
    temporary: int  # bytes
    peak: int  # bytes, arguments and temporary ones included


def find_device() -> jax.Device:
    """A device of a v5e, for which programs can be compiled. Raises UnsupportedError without libtpu."""
    from jax.experimental import topologies

    for name, value in WITHOUT_MACHINE.items():
        os.environ.setdefault(name, value)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY).devices[0]
    except Exception as error:  # a RuntimeError, a JaxRuntimeError or an ImportError, by the version of JAX
        raise UnsupportedError(f'libtpu is not here: {error}. Install it with: pip install "jax[tpu]"') from error


def all_programs(size: str, n_rows: int, n_slots: int, n_trained: int, device: jax.Device) -> Iterator[Program]:
    """Every program of a model in bfloat16: n_rows at once, an engine of n_slots, and training on n_trained rows."""
    model = model_of_shapes(size, "bfloat16", "tpu")
    yield from stages(model, n_rows, device)
    yield from engine_programs(model, n_slots, [device])
    yield from training_steps(model, n_trained, device)


def compile_program(program: Program) -> Costs:
    """Compiles a program for its devices. Raises JaxRuntimeError where it does not fit into a device's memory."""
    lowered = program.trace().lower(lowering_platforms=("tpu",))
    began = time.process_time()
    compiled = lowered.compile()
    seconds = time.process_time() - began
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
    return Costs(
        seconds,
        costs.get("flops", 0.0),
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.peak_memory_in_bytes,
    )


def cache_bytes(program: Program) -> int:
    """Bytes of the KV cache that a program takes or makes; 0 without one."""
    return _n_bytes(program.cache)


def max_rows(program: Program, costs: Costs) -> int:
    """Rows at once that fit a device: its memory without the weights, over the rest of the peak by row.

    An estimate from below: what does not grow with the rows, such as a copy of the head, is counted as if it did.
    """
    weights = _n_bytes(program.weights)
    return int((DEVICE_BYTES - weights) / max(1, costs.peak - weights) * program.n_rows)


def measure(sizes: tuple[str, ...], n_rows: int, n_slots: int, n_trained: int) -> Iterator[str]:
    """Yields the lines of a Markdown table, each as its program is compiled."""
    device = find_device()
    yield "| size | program | rows | compiled in, CPU s | GFLOP | arguments, MB | temporary | peak | rows in 16 GB |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for size in sizes:
        for program in all_programs(size, n_rows, n_slots, n_trained, device):
            yield f"| {size} | {program.name} | {program.n_rows} | {_cells(program)} |"


def _cells(program: Program) -> str:
    try:
        costs = compile_program(program)
    except jax.errors.JaxRuntimeError as error:
        message, is_memory = describe_failure(error)
        return f"does not fit | | | | | at most {program.n_rows - 1}" if is_memory else message
    megabytes = " | ".join(f"{size / 1e6:,.0f}" for size in (costs.arguments, costs.temporary, costs.peak))
    return f"{costs.seconds:.0f} | {costs.flops / 1e9:,.1f} | {megabytes} | {max_rows(program, costs):,}"


def _n_bytes(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

"""Programs of the built-in size lowered for a GPU: the kernels that they call, and that loops copy no cache."""

import pytest

from benchmarks import cuda
from benchmarks.programs import model_of_shapes, stages

pytestmark = pytest.mark.slow
N_LAYERS = 4


@pytest.mark.parametrize(
    ("attention", "dtype", "n_rows", "cudnn", "kernels"),
    [
        ("auto", "bfloat16", 1, 0, 5 * N_LAYERS + 1),  # four products and the attention of a layer, and the head
        ("auto", "float16", 8, 0, N_LAYERS),  # the attention alone
        ("auto", "int8", 1, 0, N_LAYERS),
        ("xla", "bfloat16", 8, 0, 0),
        ("cudnn", "float16", 8, N_LAYERS, 0),
    ],
)
def test_a_semantic_loop_calls_its_kernels_and_copies_no_cache(attention, dtype, n_rows, cudnn, kernels):
    pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    with cuda.pretended_gpu():
        programs = stages(model_of_shapes("tiny", dtype, "gpu", attention), n_rows)
        found = cuda.lower(next(program for program in programs if program.name == "semantic loop"))
    assert found == cuda.Lowered(cudnn, kernels, {}, copies=0)


def test_every_program_calls_cudnn_as_often_as_it_attends():
    """A prompt's last layer needs no attention. A coarse window has two calls a layer in its prompt, two in steps."""
    with cuda.pretended_gpu():
        programs = stages(model_of_shapes("tiny", "bfloat16", "gpu", "cudnn"), 64)
        found = {program.name: cuda.lower(program) for program in programs if program.name in cuda.PROGRAMS}
    assert {name: (each.cudnn, each.kernels, each.others) for name, each in found.items()} == {
        "semantic prompt": (N_LAYERS - 1, 0, {}),
        "semantic loop": (N_LAYERS, 0, {}),
        "coarse loop": (4 * N_LAYERS, 0, {}),
        "fine": (6 * 3, 0, {}),  # six codebooks, three layers
    }
    assert found["semantic loop"].copies == found["coarse loop"].copies == 0


def test_a_copy_of_a_cache_is_counted():
    """A prompt's keys and values are padded to the length of a cache: a copy, which has to be seen."""
    with cuda.pretended_gpu():
        prompt = next(stages(model_of_shapes("tiny", "float32", "gpu"), 1))
        assert cuda.lower(prompt).copies > 0

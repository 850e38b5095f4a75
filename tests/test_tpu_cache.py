"""A TPU's KV cache, run on a CPU: its numbers are those of the CPU's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import drawn, in_numpy, jit, normal
from test_stages import greedy, text_row

from bark_jax.config import BarkCoarseConfig
from bark_jax.generation import coarse, semantic
from bark_jax.model import BarkModel
from bark_jax.networks import attention, tpu_cache
from bark_jax.networks.causal import BarkCausalModel

B, S, N, H = 3, 32, 3, 16
CONFIG = BarkCoarseConfig(
    block_size=32, input_vocab_size=40, output_vocab_size=40, num_layers=2, num_heads=3, hidden_size=48, bias=False
)


@in_numpy
@jit
def steps_of_both(qkv_BF, k_BSNH, v_BSNH, length_B):
    """A step from a TPU's cache and one from a CPU's, of the same keys and values: outputs and caches [B, S, N, H]."""
    wide = tpu_cache.step(qkv_BF, *(tpu_cache.lay_out(x, S) for x in (k_BSNH, v_BSNH)), length_B, N)
    by_head = [x.swapaxes(1, 2).reshape(B * N, S, H) for x in (k_BSNH, v_BSNH)]
    y_BNH, *caches = attention.step_xla(qkv_BF, *by_head, length_B, N)
    found = wide[0], *(x.reshape(B, S, N, H) for x in wide[1:])
    return found, (y_BNH, *(x.reshape(B, N, S, H).swapaxes(1, 2) for x in caches))


def test_a_step_is_a_cpus(rng):
    """Of an idle row, one in the middle and one in its last slot; slots past a row's length hold large numbers."""
    length_B = np.array([0, 17, S - 1])
    is_live = np.arange(S)[None, :, None, None] < length_B[:, None, None, None]
    keys, values = (np.where(is_live, normal(rng, (B, S, N, H)), 1e4).astype(np.float32) for _ in range(2))
    found, expected = steps_of_both(normal(rng, (B, 3 * N * H)), keys, values, length_B)
    np.testing.assert_allclose(found[0], expected[0], atol=2e-6)
    for mine, theirs in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_cached_steps_equal_a_plain_call(rng):
    model = drawn(lambda: BarkCausalModel(CONFIG, platform="tpu", rngs=nnx.Rngs(0)))

    @in_numpy
    @jit
    def read(model, ids_BT):
        def step(cache, id_B):
            hidden_BD, cache = model.decode(id_B, cache)
            return cache, model.logits(hidden_BD)

        cache = model.prefill(model.embed(ids_BT[:, :8]), jnp.full(2, 8), 20)
        return model(ids_BT), *jax.lax.scan(step, cache, ids_BT[:, 8:].T)

    full_BTV, cache, logits_TBV = read(model, rng.integers(0, 40, (2, 12)))
    np.testing.assert_allclose(logits_TBV.swapaxes(0, 1), full_BTV[:, 8:], atol=1e-5 * np.std(full_BTV))
    assert cache.keys[0].shape == (2, 32, 48), "20 slots fill two tiles of 16"
    np.testing.assert_array_equal(cache.length_B, [12, 12])


@pytest.mark.slow
def test_the_stages_of_a_tpu_give_the_tokens_of_a_cpu(toy_folder, toy_voice, rng):
    """Greedily, with rows of unequal length, with a voice and without, so that coarse prompts are read row by row."""
    cpu, tpu = (BarkModel.from_pretrained(toy_folder, platform=platform) for platform in ("cpu", "tpu"))
    spaces = cpu.spaces
    texts = [text_row(rng.integers(0, 9, n), spaces, max_tokens=30 + n) for n in (3, 17, 30)]
    prompt = semantic.make_prompt(texts, spaces)
    voices = [None, (toy_voice.semantic, toy_voice.coarse), None]
    coarse_prompt = coarse.make_prompt([rng.integers(0, 9, n) for n in (21, 45, 70)], voices, spaces)

    def outputs(model):
        tokens = semantic.generate_semantic(model.semantic, prompt, greedy(3), spaces=spaces)
        codes = coarse.generate_coarse(model.coarse_acoustics, coarse_prompt, greedy(3), spaces=spaces)
        return jax.device_get((tokens, codes))

    (mine, my_codes), (theirs, their_codes) = outputs(tpu), outputs(cpu)
    np.testing.assert_array_equal(mine.length_B, theirs.length_B)
    np.testing.assert_array_equal(mine.tokens_BT, theirs.tokens_BT)
    np.testing.assert_allclose(mine.logprob_BT, theirs.logprob_BT, atol=1e-4)
    for b, n in enumerate(their_codes.length_B):
        np.testing.assert_array_equal(my_codes.codes_BQT[b, :, :n], their_codes.codes_BQT[b, :, :n])
        np.testing.assert_allclose(my_codes.logprob_BQT[b, :, :n], their_codes.logprob_BQT[b, :, :n], atol=1e-4)
    assert len(np.unique(their_codes.codes_BQT)) > 20, "greedy codes that never vary prove little"

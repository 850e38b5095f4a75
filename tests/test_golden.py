"""Parity without torch, against stored outputs of transformers on numpy-drawn weights; see golden/checkpoint.py."""

import functools
import json

import jax
import numpy as np
import pytest
from golden.checkpoint import FILE, N_SEMANTIC, SPACES, TEXT, voice_arrays, write_checkpoint

from bark_jax.checkpoints import convert
from bark_jax.model import BarkModel


@pytest.fixture(scope="module")
def golden():
    with np.load(FILE) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def model(golden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    write_checkpoint(folder / "theirs", json.loads(str(golden["shapes"])))
    convert(folder / "theirs", folder / "ours")
    return BarkModel.from_pretrained(folder / "ours")


@functools.partial(jax.jit, static_argnames="codebook")
def read(network, ids, *, codebook=None):
    return network(ids) if codebook is None else network(codebook, ids)


@pytest.mark.parametrize("network", ["semantic", "coarse_acoustics"])
def test_causal_logits(network, golden, model):
    logits = read(getattr(model, network), golden[f"{network}_ids"])
    np.testing.assert_allclose(logits, golden[f"{network}_logits"], atol=1e-4)


@pytest.mark.parametrize("codebook", [1, 7])
def test_fine_logits(codebook, golden, model):
    logits = read(model.fine_acoustics, golden["fine_ids"], codebook=codebook)
    np.testing.assert_allclose(logits, golden[f"fine_logits_{codebook}"], atol=1e-4)


def test_greedy_waveforms_with_and_without_a_voice(golden, model):
    n_rows = 8  # the programs of test_model's batches
    ids = np.tile(np.pad(TEXT, (0, SPACES.n_text - len(TEXT))), (n_rows, 1))
    mask = (np.arange(SPACES.n_text)[None] < len(TEXT)).repeat(n_rows, axis=0).astype(int)
    audio, lengths = model.generate(
        ids,
        attention_mask=mask,
        history_prompt=[None, voice_arrays()] * (n_rows // 2),
        semantic_max_new_tokens=N_SEMANTIC,
        return_output_lengths=True,
    )
    audio = np.asarray(audio)
    for row, name in enumerate(("plain", "voice")):
        expected = golden[f"audio_{name}"]
        assert lengths[row] == len(expected) and np.abs(expected).max() > 0.01
        np.testing.assert_allclose(audio[row, : lengths[row]], expected, atol=1e-4)


def test_encoded_codes(golden, model):
    waveform = np.random.default_rng(7).standard_normal((1, 3200)).astype(np.float32) * 0.3
    encode = jax.jit(lambda codec, samples: codec.encode(samples, bandwidth=4.8))
    np.testing.assert_array_equal(encode(model.codec_model, waveform), golden["encoded"])

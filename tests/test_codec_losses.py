"""The codec's losses against torch and plain loops, and their values in limiting cases."""

import dataclasses

import jax
import numpy as np
import pytest
from networks import in_numpy, jit

from bark_jax.audio.mel import mel_filters
from bark_jax.errors import InputError
from bark_jax.training.codec_losses import (
    ReconstructionWeights,
    complex_loss,
    magnitude,
    magnitude_losses,
    reconstruction_loss,
    stft,
)

WEIGHTS = ReconstructionWeights(scales=((256, 20), (64, 8)), complex_windows=(128,))
RATES = (24_000, 8_000)


loss = in_numpy(jit(reconstruction_loss, static_argnums=(2, 3)))
spectra = in_numpy(jit(stft, static_argnums=1))
magnitudes = in_numpy(jit(lambda audio_BA, window: magnitude(stft(audio_BA, window)), static_argnums=1))


def make_audio(rng, rows=2, n=700):
    return rng.standard_normal((rows, n)).astype(np.float32) * 0.2


def torch_stft(audio_BA, window):
    torch = pytest.importorskip("torch")
    hann = torch.hann_window(window, dtype=torch.float64)
    spectrum = torch.stft(
        torch.tensor(audio_BA, dtype=torch.float64), window, window // 4, window=hann, pad_mode="reflect",
        return_complex=True,
    )  # fmt: skip
    return (spectrum / hann.square().sum().sqrt()).transpose(1, 2).numpy()


def loop_filters(sample_rate, window, n_mels):
    """Triangles one by one, [n_mels, window // 2 + 1]."""
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    edges = [700 * (10 ** (top * i / (n_mels + 1) / 2595) - 1) for i in range(n_mels + 2)]
    filters = np.zeros((n_mels, window // 2 + 1))
    for m in range(n_mels):
        for k in range(window // 2 + 1):
            filters[m, k] = np.interp(k * sample_rate / window, edges[m : m + 3], [0, 1, 0])
    return filters


@pytest.mark.parametrize(("window", "n"), [(256, 700), (64, 64), (128, 65)])
def test_spectra_are_those_of_torch(rng, window, n):
    audio_BA = make_audio(rng, n=n)
    np.testing.assert_allclose(spectra(audio_BA, window), torch_stft(audio_BA, window), atol=2e-6)


@pytest.mark.parametrize("sample_rate", RATES)
def test_losses_are_those_of_plain_numpy(rng, sample_rate):
    found_BA, true_BA = make_audio(rng), make_audio(rng)
    found_BTF, true_BTF = (torch_stft(audio_BA, 256) for audio_BA in (found_BA, true_BA))
    filters_MF = loop_filters(sample_rate, 256, 20)
    mels = [np.abs(spectrum) @ filters_MF[filters_MF.any(axis=1)].T for spectrum in (found_BTF, true_BTF)]
    expected = {
        "log_mel": np.abs(np.log(mels[0] + 1e-3) - np.log(mels[1] + 1e-3)).mean(axis=(1, 2)),
        "mel": np.abs(mels[0] - mels[1]).mean(axis=(1, 2)),
        "log_stft": np.abs(np.log(np.abs(found_BTF) + 1e-3) - np.log(np.abs(true_BTF) + 1e-3)).mean(axis=(1, 2)),
    }
    found = jit(magnitude_losses, static_argnums=(2, 3, 4))(found_BA, true_BA, sample_rate, 256, 20)
    for name, loss_B in expected.items():
        np.testing.assert_allclose(found[name], loss_B, rtol=1e-3, err_msg=name)
    distance_B = np.abs(found_BTF - true_BTF).mean(axis=(1, 2)) / (np.abs(true_BTF).mean(axis=(1, 2)) + 0.01)
    found_B = jit(complex_loss, static_argnums=2)(found_BA, true_BA, 256)
    np.testing.assert_allclose(found_B, distance_B, rtol=2e-3)


def test_the_sum_is_weighted(rng):
    found_BA, true_BA = make_audio(rng), make_audio(rng)
    total_B, losses = loss(found_BA, true_BA, 24_000, WEIGHTS)
    np.testing.assert_allclose(losses["waveform"], np.abs(found_BA - true_BA).mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(total_B, sum(getattr(WEIGHTS, name) * losses[name] for name in losses), rtol=1e-6)
    scales = [
        loss(found_BA, true_BA, 24_000, dataclasses.replace(WEIGHTS, scales=(scale,)))[1] for scale in WEIGHTS.scales
    ]
    np.testing.assert_allclose(losses["mel"], sum(scale["mel"] for scale in scales) / 2, rtol=1e-6)


def test_equal_audio_has_no_loss(rng):
    audio_BA = make_audio(rng)
    total_B, losses = loss(audio_BA, audio_BA, 24_000, WEIGHTS)
    assert all((loss_B == 0).all() for loss_B in (total_B, *losses.values()))


def test_a_row_has_the_loss_that_it_would_have_alone(rng):
    found_BA, true_BA = make_audio(rng), make_audio(rng) * np.array([[1], [0]], np.float32)
    total_B, _ = loss(found_BA, true_BA, 24_000, WEIGHTS)
    for b in range(2):
        alone_B, _ = loss(found_BA[b : b + 1], true_BA[b : b + 1], 24_000, WEIGHTS)
        np.testing.assert_allclose(alone_B, total_B[b : b + 1], rtol=1e-6)


def test_silence_has_gradients(rng):
    silence_BA, audio_BA = np.zeros((2, 700), np.float32), make_audio(rng)
    gradient = in_numpy(jit(jax.grad(lambda found, true: reconstruction_loss(found, true, 24_000, WEIGHTS)[0].sum())))
    for found_BA in (silence_BA, audio_BA):
        for true_BA in (silence_BA, audio_BA):
            assert np.isfinite(gradient(found_BA, true_BA)).all()
    assert np.abs(gradient(silence_BA, audio_BA)).max() > 0


def test_noise_of_deviation_1_has_magnitude_1_at_every_scale(rng):
    noise_BA = rng.standard_normal((1, 2**14)).astype(np.float32)
    for window, _ in ReconstructionWeights().scales[::3]:
        power = np.square(magnitudes(noise_BA, window)).mean()
        assert power == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("sample_rate", RATES)
def test_every_scale_hears_a_tone_where_it_is(sample_rate):
    for window, n_mels in ReconstructionWeights().scales[::2]:
        filters_MF = mel_filters(sample_rate, window, n_mels)
        np.testing.assert_allclose(filters_MF, loop_filters(sample_rate, window, n_mels), atol=1e-9)
        assert filters_MF.any(axis=1).all()
        hz = sample_rate / 4
        tone_A = np.sin(2 * np.pi * hz * np.arange(4 * window) / sample_rate).astype(np.float32)
        spectrum_F = magnitudes(tone_A[None], window)[0, 8]
        assert (filters_MF @ spectrum_F).argmax() == filters_MF[:, window // 4].argmax()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(scales=()), "scales is"),
        (dict(scales=((250, 20),)), "a window is 250"),
        (dict(scales=((256, 0),)), "scales is"),
        (dict(complex_windows=(True,)), "a window is True"),
        (dict(log_mel=-1.0), r"log_mel is -1\.0"),
        (dict(waveform=float("nan")), "waveform is nan"),
        (dict(mel="much"), "mel is 'much'"),
    ],
)
def test_senseless_weights_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        ReconstructionWeights(**settings)

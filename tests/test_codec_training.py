"""Codec training: which arrays each step changes, bit-exact resuming, and that it learns."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from fractions import Fraction
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import xla_flags
from flax import nnx
from networks import as_dtype, begin_at_once, in_numpy, jit

from bark_jax.config import EncodecConfig
from bark_jax.errors import InputError
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.networks.codec.quantizer import quantize as quantize_codes
from bark_jax.stage_models import EncodecModel
from bark_jax.training import codec_quantizer
from bark_jax.training.codec_batches import codec_batches
from bark_jax.training.codec_losses import ReconstructionWeights, reconstruction_loss
from bark_jax.training.codec_training import CodecSettings, CodecTraining, train_codec
from bark_jax.training.dataset import Dataset, Example
from bark_jax.training.discriminator import (
    Discriminator,
    DiscriminatorSettings,
    adversarial_loss,
    compress,
    discriminator_loss,
    feature_loss,
)
from bark_jax.training.loop import RunSettings, fit
from bark_jax.training.metrics import METRICS_FILE, read_metrics
from bark_jax.training.network_training import full_network
from bark_jax.training.optimizer import OptimizerSettings, make_optimizer
from bark_jax.training.prepare import codec_fingerprint
from bark_jax.training.stage_training import fingerprint

CONFIG = EncodecConfig(
    target_bandwidths=(24.0,),
    sampling_rate=8000,
    num_filters=8,
    hidden_size=8,
    codebook_size=16,
    upsampling_ratios=(4,),
    num_lstm_layers=1,
    num_residual_layers=0,
    kernel_size=3,
    last_kernel_size=3,
)
SPACES = TokenSpaces(
    n_text=4, n_fine=3, codebook_size=16, semantic_rate=Fraction(50), frame_rate=Fraction(2000), sample_rate=8000
)
WEIGHTS = ReconstructionWeights(scales=((64, 10),), complex_windows=(64,))
DISCRIMINATOR = DiscriminatorSettings(from_step=68, windows=(32,), channels=4)
SETTINGS = CodecSettings(
    batch_size=8,
    n_frames=64,
    unquantized_steps=10,
    weights=WEIGHTS,
    discriminator=DISCRIMINATOR,
    eval_share=0.3,
    eval_batches=2,
)
OPTIMIZER = OptimizerSettings(learning_rate=3e-3, warmup_steps=2, beta1=0.8, beta2=0.99)
N_STEPS = 80
RUN = RunSettings(n_steps=N_STEPS, eval_every=40, save_every=10)


@pytest.fixture(scope="module", autouse=True)
def quick_compiler():
    """Toy networks compile for far longer than they run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", jit)
        begin_at_once(
            CodecTraining, patch, lambda training: training.settings.discriminator and training._discriminator
        )
        yield


@functools.cache
def make_codec(dtype="float32"):
    """A random codec, drawn by numpy: compiling its initialisers would take longer."""
    rng = np.random.default_rng(1)
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: EncodecModel(CONFIG, dtype=dtype, rngs=nnx.Rngs(0))))
    drawn = [
        (path, variable.replace(as_dtype(draw(path, variable.get_value().shape, rng), dtype)))
        for path, variable in nnx.to_flat_state(abstract)
    ]
    return nnx.merge(graphdef, nnx.from_flat_state(drawn))


def draw(path, shape, rng):
    deviation = 0 if path[-1] == "bias" else np.prod(shape[:-1]) ** -0.5
    return (deviation * rng.standard_normal(shape)).astype(np.float32)


@functools.cache
def make_model():
    """A stub of a model with the attributes that codec training reads."""
    return SimpleNamespace(codec_model=make_codec(), spaces=SPACES)


@functools.cache
def make_dataset():
    """Sinusoids of 0.02 to 0.2 s; the codes are not those of any codec."""
    rng = np.random.default_rng(3)
    examples, audio = [], []
    for n in (1, 2, 5, 8, 10, 10, 9):
        n_frames = SPACES.n_frames(n)
        codes = rng.integers(0, SPACES.codebook_size, (SPACES.n_fine, n_frames))
        examples.append(Example(rng.integers(0, 9, 3), rng.integers(0, 9, n), codes, 0))
        time_s = np.arange(n_frames * 4) / SPACES.sample_rate
        audio.append((0.3 * np.sin(2 * np.pi * rng.uniform(200, 900) * time_s + rng.uniform(0, 6))).astype(np.float32))
    return Dataset.from_examples(examples, SPACES, audio=audio)


@functools.cache
def make_training(devices=None, **changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    optimizer = make_optimizer(OPTIMIZER, N_STEPS)
    return CodecTraining(make_codec(), optimizer, settings, SPACES.n_fine, optimizer, devices)


def begin_at(training, step):
    return training.put_on_devices(dataclasses.replace(training.init(), step=jnp.int32(step)))


def make_batch(step):
    return codec_batches(make_dataset(), batch_size=8, n_frames=64, seed=0, gain=(0.6, 1.1))(step)


def first_quantized_losses(training):
    """Losses of the first quantised steps of a random codec: k-means finds its codebooks, then they move."""
    first, losses = SETTINGS.unquantized_steps, []
    state = begin_at(training, first)
    for step in range(first, first + 3):
        state, metrics = training.step(state, make_batch(step))
        losses.append(float(metrics["loss"]))
    return state, losses


def run(folder, batches=make_batch):
    return fit(make_training(), batches, folder, RUN, evaluation=[make_batch(1000)], show_progress=False)


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """An uninterrupted run: its folder and result."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, run(folder)


def test_a_random_codec_learns_from_nothing(uninterrupted):
    folder, _ = uninterrupted
    records = read_metrics(folder)
    losses = [record["eval_loss"] for record in records if "eval_loss" in record]
    audio_BA = make_batch(1000)["audio"]
    loss = jit(reconstruction_loss, static_argnums=(2, 3))
    silence_B, _ = loss(np.zeros_like(audio_BA), audio_BA, SPACES.sample_rate, WEIGHTS)
    assert losses[-1] < 0.5 * np.mean(silence_B)
    steps = [record for record in records if "loss" in record]
    assert [step["step"] for step in steps] == list(range(1, N_STEPS + 1))
    assert next(step["step"] for step in steps if "commitment" in step) == SETTINGS.unquantized_steps + 1
    assert next(step["step"] for step in steps if "discriminator" in step) == DISCRIMINATOR.from_step + 1
    assert steps[40]["codes_used"] > 0.7


@pytest.mark.parametrize(
    "killed_at", [SETTINGS.unquantized_steps, *(pytest.param(step, marks=pytest.mark.slow) for step in (3, 75))]
)
def test_a_killed_run_resumes_with_the_same_bits(uninterrupted, tmp_path, killed_at):
    """Killed when k-means finds the codebooks, before the first checkpoint, or while the discriminator trains."""

    def killed(step):
        if step == killed_at:
            raise KeyboardInterrupt
        return make_batch(step)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", killed)
    result = run(tmp_path / "run")
    assert (tmp_path / "run" / METRICS_FILE).read_text() == (uninterrupted[0] / METRICS_FILE).read_text()
    assert_equal(result.state, uninterrupted[1].state)


def test_steps_without_a_discriminator_hold_none_and_it_waits_for_its_step():
    state = make_training(discriminator=None).init()
    assert state.discriminator_params is None and state.discriminator_opt_state is None
    training = make_training()
    state = training.init()
    before = jax.tree.map(np.asarray, (state.discriminator_params, state.discriminator_opt_state))
    for step in range(2):
        state, _ = training.step(state, make_batch(step))
    assert_equal((state.discriminator_params, state.discriminator_opt_state), before)


@pytest.mark.parametrize("step", [0, SETTINGS.unquantized_steps, DISCRIMINATOR.from_step])
def test_gradients_that_are_not_finite_change_nothing(uninterrupted, step):
    training = make_training()
    state = begin_at(training, step)
    before = jax.tree.map(np.asarray, state)
    batch = make_batch(step)
    batch["audio"][2, 5] = np.nan
    state, metrics = training.step(state, batch)
    assert (metrics["skipped"], state.step, state.skipped) == (1, step + 1, 1)
    assert_equal(dataclasses.replace(state, step=step, skipped=0), dataclasses.replace(before, step=step))


@in_numpy
@jit
def codes_of(x_BTC, table_QVC):
    return quantize_codes(x_BTC, list(table_QVC))


def draw_vectors(rng, *shapes):
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def test_gradients_pass_the_quantizer_as_if_it_were_not_there(rng):
    x_BTC, table_QVC, weight_BTC = draw_vectors(rng, (3, 5, 2), (4, 8, 2), (3, 5, 2))
    n_codebooks_B = np.array([1, 3, 4])

    def read(x_BTC, table_QVC):
        found_BTC = codec_quantizer.quantize(x_BTC, table_QVC).up_to(n_codebooks_B)
        return (weight_BTC * found_BTC).sum(), found_BTC

    gradients, found_BTC = in_numpy(jit(jax.grad(read, argnums=(0, 1), has_aux=True)))(x_BTC, table_QVC)
    np.testing.assert_array_equal(gradients[0], weight_BTC)
    assert (gradients[1] == 0).all()
    codes_BQT = codes_of(x_BTC, table_QVC)
    for b, n_codebooks in enumerate(n_codebooks_B):
        expected_TC = sum(table_QVC[q][codes_BQT[b, q]] for q in range(n_codebooks))
        np.testing.assert_allclose(found_BTC[b], expected_TC, atol=1e-6)


def test_commitment_pulls_vectors_towards_the_codes_that_a_row_uses(rng):
    x_BTC, table_QVC = draw_vectors(rng, (3, 5, 2), (4, 8, 2))
    n_codebooks_B = np.array([1, 3, 4])

    def commit(x_BTC):
        loss_B = codec_quantizer.quantize(x_BTC, jnp.asarray(table_QVC)).commitment(n_codebooks_B)
        return loss_B.sum(), loss_B

    codes_BQT = codes_of(x_BTC, table_QVC)
    expected_B, gradient_BTC = np.zeros(3), np.zeros(x_BTC.shape)
    for b, n_codebooks in enumerate(n_codebooks_B):
        left_TC = x_BTC[b]
        for q in range(n_codebooks):
            left_TC = left_TC - table_QVC[q][codes_BQT[b, q]]
            expected_B[b] += np.square(left_TC).mean() / n_codebooks
            gradient_BTC[b] += 2 * left_TC / left_TC.size / n_codebooks
    found_BTC, found_B = jit(jax.grad(commit, has_aux=True))(x_BTC)
    np.testing.assert_allclose(found_B, expected_B, rtol=1e-5)
    np.testing.assert_allclose(found_BTC, gradient_BTC, atol=1e-6)


def test_codebooks_follow_their_vectors_and_dead_codes_are_revived(rng):
    """Against a plain loop, over steps in which codes die."""
    (table_QVC,) = draw_vectors(rng, (2, 6, 2))
    table_QVC[:, 4:] += 50  # codes too far away
    codebooks = in_numpy(jit(functools.partial(codec_quantizer.begin, n_vectors=40)))(table_QVC)
    counts, sums = codebooks.count_QV.astype(np.float64), codebooks.sum_QVC.astype(np.float64)

    @in_numpy
    @jit
    def advance(books, x_BTC, seed):
        quantized = codec_quantizer.quantize(x_BTC, books.table_QVC)
        return codec_quantizer.update(books, quantized, jax.random.key(seed))

    n_revived = 0
    for step in range(400):
        (x_BTC,) = draw_vectors(rng, (4, 10, 2))
        left_NC = x_BTC.reshape(-1, 2)
        codes_BQT = codes_of(x_BTC, codebooks.table_QVC)
        before, codebooks = codebooks, advance(codebooks, x_BTC, step)
        for q in range(2):
            codes_N = codes_BQT[:, q].reshape(-1)
            for v in range(6):
                counts[q, v] = 0.99 * counts[q, v] + 0.01 * (codes_N == v).sum()
                sums[q, v] = 0.99 * sums[q, v] + 0.01 * left_NC[codes_N == v].sum(axis=0)
                if counts[q, v] < codec_quantizer.DEAD_SHARE * 40 / 6:
                    n_revived += 1
                    counts[q, v] = codec_quantizer.REVIVED_SHARE * 40 / 6
                    assert np.abs(left_NC - codebooks.table_QVC[q, v]).sum(axis=1).min() < 1e-5
                    sums[q, v] = counts[q, v] * codebooks.table_QVC[q, v]
            left_NC = left_NC - before.table_QVC[q][codes_N]
        if n_revived >= 4:
            break
    assert n_revived >= 4
    np.testing.assert_allclose(codebooks.count_QV, counts, rtol=1e-4)
    np.testing.assert_allclose(codebooks.table_QVC, sums / counts[..., None], rtol=1e-4, atol=1e-5)


def test_kmeans_gives_the_means_of_what_is_nearest_to_them(rng):
    (x_NC,) = draw_vectors(rng, (60, 2))
    codebooks = in_numpy(jit(lambda x_NC: codec_quantizer.find_codebooks(x_NC, 2, 4, jax.random.key(0))))(x_NC)
    codes_QN = codes_of(x_NC[None], codebooks.table_QVC)[0]
    left_NC, sizes = x_NC, [np.square(x_NC).mean()]
    for codes_N, table_VC in zip(codes_QN, codebooks.table_QVC, strict=True):
        means_VC = np.stack([left_NC[codes_N == v].mean(axis=0) for v in range(4)])
        np.testing.assert_allclose(table_VC, means_VC, atol=0.1)  # nearly converged after a few rounds
        left_NC = left_NC - table_VC[codes_N]
        sizes.append(np.square(left_NC).mean())
    assert sizes[1] < 0.5 * sizes[0] and sizes[2] < 0.6 * sizes[1]


def test_pieces_are_of_the_audio_and_of_the_step_alone():
    dataset = make_dataset()
    make = codec_batches(dataset, batch_size=50, n_frames=60, seed=5)
    assert_equal(make(3), codec_batches(dataset, batch_size=50, n_frames=60, seed=5)(3))
    assert not np.array_equal(make(3)["audio"], make(4)["audio"])
    pieces = {}
    for index in range(len(dataset)):
        audio_A = np.pad(dataset.audio(index), (0, max(0, 240 - len(dataset.audio(index)))))
        pieces |= {audio_A[start : start + 240].tobytes(): index for start in range(0, len(audio_A) - 239, 4)}
    counts = np.bincount(
        [pieces[row.tobytes()] for step in range(20) for row in make(step)["audio"]], minlength=len(dataset)
    )
    expected = 1000 * dataset.frame_lengths / dataset.frame_lengths.sum()
    assert (np.abs(counts - expected) < 4 * np.sqrt(expected)).all()
    loud = codec_batches(dataset, batch_size=50, n_frames=60, seed=5, gain=(0.5, 2.0))(3)["audio"]
    ratio_B = np.abs(loud).max(axis=1) / np.abs(make(3)["audio"]).max(axis=1)
    assert ratio_B.min() >= 0.5 and ratio_B.max() <= 2 and ratio_B.std() > 0.2


def test_the_decoder_alone_leaves_codes_as_they_are(tmp_path):
    codec = make_codec("bfloat16")
    model = SimpleNamespace(codec_model=codec, spaces=SPACES)
    before = fingerprint(codec)
    settings = dataclasses.replace(SETTINGS, parts="decoder", unquantized_steps=0, discriminator=None)
    run = RunSettings(n_steps=3, eval_every=3, save_every=3)
    options = dict(settings=settings, optimizer=OPTIMIZER, show_progress=False)
    trained = train_codec(model, make_dataset(), tmp_path / "run", run, **options)
    assert fingerprint(codec) == before and trained.result.best_loss is not None
    assert_equal(trained.network.encoder, codec.encoder)
    assert_equal(trained.network.quantizer, codec.quantizer)
    assert fingerprint(trained.network.decoder) != fingerprint(codec.decoder)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(trained.network)} == {"bfloat16"}
    assert codec_fingerprint(trained.network) == codec_fingerprint(codec)
    with pytest.raises(InputError, match=r"settings\.commitment was 0\.25, now 1"):
        options["settings"] = dataclasses.replace(settings, commitment=1)
        train_codec(model, make_dataset(), tmp_path / "run", run, **options)
    with pytest.raises(InputError, match="start was"):
        train_codec(make_model(), make_dataset(), tmp_path / "run", run, settings=settings, optimizer=OPTIMIZER)


def test_a_discriminator_learns_to_tell(rng):
    settings = DiscriminatorSettings(windows=(32,), channels=4)
    make_params, assemble = full_network(
        Discriminator(settings, seed=0), lambda _: Discriminator(settings, seed=0), "float32"
    )
    params = make_params()
    optimizer = optax.adam(3e-3)

    def loss(params, true_BA, false_BA):
        discriminator = assemble(params, None)
        true, false = discriminator(true_BA), discriminator(false_BA)
        return discriminator_loss(true, false).mean(), (adversarial_loss(true), adversarial_loss(false))

    @jit
    def step(params, opt_state, *audio):
        (value, likes), gradients = jax.value_and_grad(loss, has_aux=True)(params, *audio)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return optax.apply_updates(params, updates), opt_state, value, likes

    values, opt_state = [], jit(optimizer.init)(params)
    for number in range(150):
        true_BA = make_batch(number)["audio"]
        false_BA = true_BA + 0.02 * rng.standard_normal(true_BA.shape).astype(np.float32)
        params, opt_state, value, (like_true, like_false) = step(params, opt_state, true_BA, false_BA)
        values.append(float(value))
    assert values[0] == pytest.approx(2, abs=0.5) and values[-1] < 0.5
    assert np.mean(like_true) < np.mean(like_false)
    features = in_numpy(jit(lambda params, *audio: feature_loss(*map(assemble(params, None), audio))))
    assert (features(params, true_BA, true_BA) == 0).all() and (features(params, true_BA, false_BA) > 0).all()


def test_silence_has_a_gradient_before_the_discriminator():
    gradient = jit(jax.grad(lambda gain: compress(gain * jnp.ones((1, 2, 3), jnp.complex64)).sum()))(0.0)
    assert np.isfinite(gradient) and gradient > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(parts="encoder"), "parts is 'encoder'"),
        (dict(batch_size=0), "batch_size is 0"),
        (dict(n_frames=1.5), r"n_frames is 1\.5"),
        (dict(seed=True), "seed is True"),
        (dict(commitment=-1), "commitment is -1"),
        (dict(fewer_share=1.2), r"fewer_share is 1\.2"),
        (dict(gain=(1.0, 0.5)), "gain is"),
        (dict(parts="decoder", unquantized_steps=5), "unquantized_steps is 5"),
    ],
)
def test_senseless_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        CodecSettings(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(from_step=-1), "from_step is -1"),
        (dict(channels=0), "channels is 0"),
        (dict(windows=()), "windows is empty"),
        (dict(windows=(30,)), "a window is 30"),
        (dict(adversarial=float("inf")), "adversarial is inf"),
    ],
)
def test_senseless_discriminators_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        DiscriminatorSettings(**settings)


def test_what_does_not_go_together_is_refused(tmp_path):
    dataset, run = make_dataset(), RunSettings(n_steps=1)
    silent = Dataset.from_examples([dataset[0], dataset[1]], SPACES)
    with pytest.raises(InputError, match="holds no audio"):
        train_codec(make_model(), silent, tmp_path / "run", run, settings=SETTINGS)
    with pytest.raises(InputError, match="was prepared for a model with"):
        train_codec(SimpleNamespace(codec_model=make_codec(), spaces=TokenSpaces()), dataset, tmp_path / "run", run)
    with pytest.raises(InputError, match="n_frames is 5, expected 9 or more"):
        make_training(n_frames=5)
    with pytest.raises(InputError, match="n_codebooks is 4, expected 1 to the codec's 3"):
        dataclasses.replace(make_training(), n_codebooks=4)
    with pytest.raises(InputError, match="3 rows, expected a multiple of 2"):
        training = make_training(devices=tuple(jax.devices()) * 2)
        training._shard_rows(np.zeros((3, 256), np.float32))
    assert not (tmp_path / "run").exists()


DEVICES_SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import jax, conftest
from test_codec_training import first_quantized_losses, make_training
state, losses = first_quantized_losses(make_training(devices=tuple(jax.devices())))
assert len(jax.tree.leaves(state.params)[0].devices()) == 8
print(json.dumps(losses))
"""


@pytest.mark.slow
def test_eight_devices_have_the_losses_of_one():
    environment = os.environ | {
        "XLA_FLAGS": xla_flags(8),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    command = [sys.executable, "-c", DEVICES_SCRIPT, os.path.dirname(__file__)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    _, expected = first_quantized_losses(make_training())
    np.testing.assert_allclose(json.loads(result.stdout), expected, rtol=1e-5)

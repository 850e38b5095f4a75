"""Training of a model's codec: encoder, decoder and codebooks, or the decoder alone.

Parameters are float32 arrays by name, as in `network_training`; codebooks are moved without gradients, see
`codec_quantizer`. A run has up to three kinds of steps, in this order, and each kind is one compiled program:

    unquantized    the decoder reads the encoder's output; k-means then initialises the codebooks
    quantized      the decoder reads quantised vectors, from a random number of codebooks in some rows
    adversarial    as quantized, and a discriminator trains along with the codec (GAN)

Random draws are a function of seed and step, and everything else is in the state, so a run can be resumed exactly.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bark_jax._system.own_jax_config import under_own_config
from bark_jax.checkpoints.load import module_maker
from bark_jax.errors import InputError
from bark_jax.model import BarkModel
from bark_jax.networks.codec.encodec import Codec
from bark_jax.training import codec_quantizer
from bark_jax.training.checks import check_integer, check_weight, memory_errors
from bark_jax.training.codec_batches import check_gain, codec_batches
from bark_jax.training.codec_losses import ReconstructionWeights, reconstruction_loss
from bark_jax.training.codec_quantizer import Codebooks, Quantized
from bark_jax.training.dataset import Dataset, check_same_meaning, samples_per_frame
from bark_jax.training.discriminator import (
    Discriminator,
    DiscriminatorSettings,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)
from bark_jax.training.loop import RunResult, RunSettings, fit
from bark_jax.training.network_training import check_rows, full_network
from bark_jax.training.optimizer import OptimizerSettings, make_optimizer
from bark_jax.training.placement import shapes_on
from bark_jax.training.stage_training import fingerprint

Arrays = Mapping[str, jax.Array]
Batch = Mapping[str, Any]

NETWORK = "codec_model"
# beta1 below a transformer's 0.9: a codec's gradients change faster, so momentum averages over fewer steps.
OPTIMIZER = OptimizerSettings(
    learning_rate=1e-3, warmup_steps=200, final_share=0.03, weight_decay=1e-3, beta1=0.8, beta2=0.99
)
# Weight of the mean square of the encoder's output in unquantized steps, which nothing else keeps from growing.
LATENT_PENALTY = 0.01
_STATIC = ("is_quantized", "is_adversarial")  # arguments of a step that decide which losses it has


@dataclasses.dataclass(frozen=True)
class CodecSettings:
    """Settings of codec training, apart from run length and optimizer.

    Args:
      parts: "all", or "decoder": encoder and codebooks are frozen, so codes keep their meaning, and datasets and
        transformers made with them stay valid.
      batch_size: rows a step, over all devices.
      n_frames: length of a row, in frames.
      unquantized_steps: number of first steps without quantisation, after which k-means initialises the codebooks. A
        few hundred from random weights; 0 starts from the codec's own codebooks.
      fewer_share: probability that a row is decoded from a random number of codebooks, 1 to all (quantiser dropout).
      commitment: weight of the commitment loss, the encoder's distance to its codebook vectors.
      gain: bounds of the random factor that a row is multiplied by.
      weights: of the reconstruction losses.
      discriminator: settings of the adversarial loss; None trains without. The held-out loss has no adversarial part,
        so the best evaluation may be from before from_step. To train with a discriminator, start from a trained codec
        with eval_share=0, which keeps the last state.
      eval_share: share of the dataset to hold out for evaluation.
      eval_batches: number of batches an evaluation.
      seed: seeds the split and every draw.

    Raises:
      InputError: a setting is out of range, or unquantized_steps is given with parts="decoder".
    """

    parts: str = "all"
    batch_size: int = 16
    n_frames: int = 72
    unquantized_steps: int = 0
    fewer_share: float = 0.4
    commitment: float = 0.25
    gain: tuple[float, float] = (0.6, 1.1)
    weights: ReconstructionWeights = dataclasses.field(default_factory=ReconstructionWeights)
    discriminator: DiscriminatorSettings | None = None
    eval_share: float = 0.05
    eval_batches: int = 4
    seed: int = 0

    def __post_init__(self):
        if self.parts not in ("all", "decoder"):
            raise InputError(f"parts is {self.parts!r}, expected 'all' or 'decoder'")
        for name, least in (
            ("batch_size", 1),
            ("n_frames", 1),
            ("unquantized_steps", 0),
            ("eval_batches", 1),
            ("seed", 0),
        ):
            check_integer(name, getattr(self, name), least)
        check_weight("commitment", self.commitment)
        check_weight("fewer_share", self.fewer_share)
        check_gain(self.gain)
        if self.fewer_share > 1:
            raise InputError(f"fewer_share is {self.fewer_share!r}, expected a share from 0 to 1")
        if self.parts == "decoder" and self.unquantized_steps:
            raise InputError(
                f"unquantized_steps is {self.unquantized_steps}, expected 0 for parts='decoder': new codebooks would "
                "change the codes"
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CodecState:
    """Everything that a step changes and a checkpoint stores."""

    step: jax.Array  # int32 [], steps done
    params: Any  # trained parameters by name, float32: of encoder and decoder, or of the decoder alone
    opt_state: Any
    codebooks: Codebooks | None  # None if they are frozen
    discriminator_params: Any  # by name, float32; None without a discriminator
    discriminator_opt_state: Any
    skipped: jax.Array  # int32 [], consecutive steps with non-finite gradients, up to now


@dataclasses.dataclass(frozen=True)
class CodecTraining:
    """Steps and evaluations of a codec: a `loop.Training`. Batches are those of `codec_batches`.

    Args:
      codec: start of the training, any dtype; mono, without normalisation and chunks.
      optimizer: updates the codec's parameters by name.
      n_codebooks: number of codebooks to train and read; the rest are frozen.
      discriminator_optimizer: required if settings.discriminator is given.
      devices: split the rows of a batch, with all parameters on each (data parallel); None is JAX's default device.

    Raises:
      InputError: a codec that is not mono or has normalisation or chunks, n_codebooks out of range, or rows shorter
        than the longest window of the losses.
    """

    codec: Codec
    optimizer: optax.GradientTransformation
    settings: CodecSettings
    n_codebooks: int
    discriminator_optimizer: optax.GradientTransformation | None = None
    devices: Sequence[jax.Device] | None = None

    def __post_init__(self):
        config, settings = self.codec.config, self.settings
        if config.audio_channels != 1 or config.normalize or config.chunk_length is not None:
            raise InputError(
                f"the codec has {config.audio_channels} channels, normalize {config.normalize} and chunk_length_s "
                f"{config.chunk_length_s}, expected a mono codec without normalisation and chunks"
            )
        if not 1 <= self.n_codebooks <= config.num_quantizers:
            raise InputError(f"n_codebooks is {self.n_codebooks}, expected 1 to the codec's {config.num_quantizers}")
        least = max(each.min_samples for each in (settings.weights, settings.discriminator) if each is not None)
        if settings.n_frames * config.hop_length < least:
            raise InputError(
                f"n_frames is {settings.n_frames}, expected {-(-least // config.hop_length)} or more: {least} samples "
                "for the longest window of the losses"
            )

    def init(self) -> CodecState:
        """The state before the first step, on all devices."""
        params = {name: jnp.array(array) for name, array in self._arrays.items() if self._is_trained(name)}
        codebooks, discriminator = None, None
        if self.settings.parts == "all":
            n_vectors = self.settings.batch_size * self.settings.n_frames
            codebooks = codec_quantizer.begin(self._start_table, n_vectors)
        if self.settings.discriminator is not None:
            discriminator = {name: jnp.array(array) for name, array in self._discriminator[0].items()}
        discriminator_opt_state = None if discriminator is None else self.discriminator_optimizer.init(discriminator)
        return self.put_on_devices(
            CodecState(
                jnp.int32(0),
                params,
                self.optimizer.init(params),
                codebooks,
                discriminator,
                discriminator_opt_state,
                jnp.int32(0),
            )
        )

    def put_on_devices(self, state: CodecState) -> CodecState:
        """Copies the state to every device."""
        return jax.device_put(state, self._everywhere)

    def step(self, state: CodecState, batch: Batch) -> tuple[CodecState, dict[str, jax.Array]]:
        """Trains on one batch. The memory of `state` is donated: do not use it afterwards.

        If the loss or a gradient is not finite, only state.step and state.skipped change.

        Returns:
          the new state, and metrics, float32 scalars (shape ()), losses as means over the rows of audio [B, A]:
            loss                              the weighted sum of all
            log_mel, mel, log_stft, complex_stft, waveform    see `codec_losses`
            grad_norm                         gradient norm of the codec's parameters, before clipping
            skipped                           1 if the step was skipped, else 0
            latent                            unquantized steps: mean square of the encoder's output
            commitment, codes_used            quantized steps: commitment loss, and codebook usage of the batch
            adversarial, feature_matching     adversarial steps: the codec's losses from the discriminator
            discriminator                     adversarial steps: the discriminator's own loss

        Raises:
          InputError: the rows cannot be split evenly over the devices.
        """
        # The batch's number, not state.step: to read that would wait for the device to finish the step before.
        step, audio_BA = int(batch["step"]), self._shard_rows(batch["audio"])
        # Part of this step, so a run that is resumed here runs k-means again, on the same batch and with the same key.
        if step and step == self.settings.unquantized_steps:
            state = self._compiled_start(state, self._frozen, audio_BA)
        return self._compiled_step(state, self._frozen, audio_BA, **self._losses_of(step))

    def trace(self, batch: Batch, sharding: jax.sharding.Sharding) -> jax.stages.Traced:
        """Traces `step` for the shapes of a batch, and runs nothing. `.lower().compile()` has its bytes and FLOPs.

        Args:
          sharding: of all arguments, on devices that need not be here.
        """
        arguments = shapes_on(sharding, (jax.eval_shape(self.init), self._frozen, batch["audio"]))
        step = jax.jit(self._step, static_argnames=_STATIC, donate_argnums=0)
        return step.trace(*arguments, **self._losses_of(int(batch["step"])))

    def _losses_of(self, step: int) -> dict[str, bool]:
        discriminator = self.settings.discriminator
        return {
            "is_quantized": step >= self.settings.unquantized_steps,
            "is_adversarial": discriminator is not None and step >= discriminator.from_step,
        }

    def evaluate(self, state: CodecState, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """(reconstruction loss summed over the rows of audio [B, A], B), float32. Decodes from all codebooks."""
        parts = (state.params, state.codebooks)
        return self._compiled_evaluation(*parts, self._frozen, self._shard_rows(batch["audio"]))

    def arrays(self, state: CodecState) -> dict[str, np.ndarray]:
        """All parameters of the codec by name, trained and frozen, each a float32 array of its own shape."""
        tables = {}
        if state.codebooks is not None:
            tables = dict(zip(self._table_names, np.asarray(state.codebooks.table_QVC), strict=True))
        return self._arrays | {name: np.asarray(array) for name, array in state.params.items()} | tables

    @functools.cached_property
    def _params_and_assemble(self) -> tuple[dict[str, np.ndarray], Callable]:
        make_module = module_maker(type(self.codec), self.codec.config, platform=self.codec.platform)
        make_params, assemble = full_network(self.codec, make_module, "float32")
        return make_params(), assemble

    @property
    def _arrays(self) -> dict[str, np.ndarray]:
        return self._params_and_assemble[0]

    @functools.cached_property
    def _discriminator(self) -> tuple[dict[str, np.ndarray], Callable]:
        """(initial parameters of the discriminator by name, function from parameters to the module)."""
        settings = self.settings.discriminator

        def make(dtype: Any = None) -> Discriminator:
            return Discriminator(settings, seed=self.settings.seed)

        make_params, assemble = full_network(make(), make, "float32")
        return make_params(), assemble

    @property
    def _table_names(self) -> list[str]:
        return [f"quantizer.codebooks.{q}.embedding" for q in range(self.n_codebooks)]

    @property
    def _start_table(self) -> np.ndarray:
        return np.stack([self._arrays[name] for name in self._table_names])

    def _is_trained(self, name: str) -> bool:
        return name.startswith("decoder.") or (self.settings.parts == "all" and name.startswith("encoder."))

    @functools.cached_property
    def _mesh(self) -> Mesh:
        devices = jnp.zeros(()).devices() if self.devices is None else self.devices
        return Mesh(np.array(list(devices)), ("data",))

    @property
    def _everywhere(self) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec())

    @functools.cached_property
    def _frozen(self) -> Arrays:
        frozen = {name: array for name, array in self._arrays.items() if not self._is_trained(name)}
        return jax.device_put(frozen, self._everywhere)

    def _shard_rows(self, audio_BA: np.ndarray) -> jax.Array:
        if len(audio_BA) % self._mesh.size:
            raise InputError(f"a batch has {len(audio_BA)} rows, expected a multiple of {self._mesh.size}, the devices")
        return jax.device_put(audio_BA, NamedSharding(self._mesh, PartitionSpec("data")))

    @functools.cached_property
    def _compiled_step(self) -> Callable:
        # out_shardings keeps the state on every device. XLA could choose otherwise, and the next step compile again.
        return jax.jit(self._step, static_argnames=_STATIC, donate_argnums=0, out_shardings=self._everywhere)

    @functools.cached_property
    def _compiled_start(self) -> Callable:
        return jax.jit(self._find_codebooks, donate_argnums=0, out_shardings=self._everywhere)

    @functools.cached_property
    def _compiled_evaluation(self) -> Callable:
        return jax.jit(self._evaluate)

    def _network(self, params: Arrays, frozen: Arrays) -> Codec:
        return self._params_and_assemble[1]({**frozen, **params}, None)

    def _table(self, codebooks: Codebooks | None, frozen: Arrays) -> jax.Array:
        return jnp.stack([frozen[name] for name in self._table_names]) if codebooks is None else codebooks.table_QVC

    def _encode(self, params: Arrays, frozen: Arrays, audio_BA: jax.Array) -> tuple[Codec, jax.Array]:
        """(the codec, x_BTC, its encoder's output before quantisation)."""
        network = self._network(params, frozen)
        # A frozen encoder uses the precision of `prepare`, so that its codes equal those of prepared datasets.
        is_frozen = self.settings.parts == "decoder"
        with jax.default_matmul_precision("highest") if is_frozen else contextlib.nullcontext():
            return network, network.encoder(audio_BA[..., None])

    def _find_codebooks(self, state: CodecState, frozen: Arrays, audio_BA: jax.Array) -> CodecState:
        """Initialises the codebooks by k-means on the encoder's output. Keeps them if that output is not finite."""
        _, x_BTC = self._encode(state.params, frozen, audio_BA)
        _, V, C = state.codebooks.table_QVC.shape
        key = jax.random.fold_in(self._key(state.step), 1)
        found = codec_quantizer.find_codebooks(x_BTC.reshape(-1, C), self.n_codebooks, V, key)
        return dataclasses.replace(state, codebooks=_choose(jnp.isfinite(x_BTC).all(), found, state.codebooks))

    def _evaluate(
        self, params: Arrays, codebooks: Codebooks | None, frozen: Arrays, audio_BA: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        network, x_BTC = self._encode(params, frozen, audio_BA)
        quantized = codec_quantizer.quantize(x_BTC, self._table(codebooks, frozen))
        decoded_BAC = network.decoder(quantized.up_to(jnp.full(len(audio_BA), self.n_codebooks)))
        loss_B, _ = self._reconstruction(decoded_BAC[..., 0], audio_BA)
        return loss_B.sum(), jnp.float32(len(audio_BA))

    def _reconstruction(self, decoded_BA: jax.Array, audio_BA: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return reconstruction_loss(decoded_BA, audio_BA, self.codec.config.sampling_rate, self.settings.weights)

    def _step(
        self, state: CodecState, frozen: Arrays, audio_BA: jax.Array, *, is_quantized: bool, is_adversarial: bool
    ) -> tuple[CodecState, dict[str, jax.Array]]:
        key = self._key(state.step)
        # With respect to the codec's parameters alone: the discriminator's, in `state`, are constants of this loss.
        gradients, made = jax.grad(self._loss, has_aux=True)(
            state.params, state, frozen, audio_BA, is_quantized=is_quantized, is_adversarial=is_adversarial
        )
        metrics = made.metrics | {"grad_norm": optax.tree.norm(gradients)}
        # One norm stands for all gradients: a NaN or an infinity in any of them makes it non-finite.
        is_finite = jnp.isfinite(metrics["grad_norm"]) & jnp.isfinite(metrics["loss"])
        new = dataclasses.replace(state, **_move(self.optimizer, gradients, state.params, state.opt_state))
        if is_quantized and state.codebooks is not None:
            codebooks = codec_quantizer.update(state.codebooks, made.quantized, jax.random.fold_in(key, 2))
            new = dataclasses.replace(new, codebooks=codebooks)
        if is_adversarial:
            # On the audio that the codec's loss has read, from before the codec's update: it is not decoded twice.
            metrics["discriminator"], gradients = jax.value_and_grad(self._discriminator_loss)(
                state.discriminator_params, audio_BA, jax.lax.stop_gradient(made.decoded_BA)
            )
            is_finite &= jnp.isfinite(optax.tree.norm(gradients))
            moved = _move(
                self.discriminator_optimizer, gradients, state.discriminator_params, state.discriminator_opt_state
            )
            new = dataclasses.replace(new, **{f"discriminator_{name}": value for name, value in moved.items()})
        # One decision for codec, codebooks and discriminator, as one of them alone would be a step ahead of the others.
        # A select, not lax.cond: both states exist by now.
        new = _choose(is_finite, new, state)
        skipped = jnp.where(is_finite, 0, state.skipped + 1)
        return dataclasses.replace(new, step=state.step + 1, skipped=skipped), metrics | {"skipped": 1.0 - is_finite}

    def _loss(
        self,
        params: Arrays,
        state: CodecState,
        frozen: Arrays,
        audio_BA: jax.Array,
        *,
        is_quantized: bool,
        is_adversarial: bool,
    ) -> tuple[jax.Array, "_Made"]:
        """The codec's weighted loss, a float32 scalar, and what the rest of the step needs of the forward pass."""
        network, x_BTC = self._encode(params, frozen, audio_BA)
        quantized, terms, metrics = None, {}, {}
        if is_quantized:
            n_codebooks_B = self._draw_codebooks(state.step, len(audio_BA))
            quantized = codec_quantizer.quantize(x_BTC, self._table(state.codebooks, frozen))
            x_BTC = quantized.up_to(n_codebooks_B)
            terms["commitment"] = (self.settings.commitment, quantized.commitment(n_codebooks_B))
            metrics["codes_used"] = codec_quantizer.share_used(quantized, self.codec.config.codebook_size)
        else:
            terms["latent"] = (LATENT_PENALTY, jnp.square(x_BTC).mean(axis=(1, 2)))
        decoded_BA = network.decoder(x_BTC)[..., 0]
        if is_adversarial:
            terms |= self._adversarial_terms(state.discriminator_params, audio_BA, decoded_BA)
        loss_B, differences = self._reconstruction(decoded_BA, audio_BA)
        loss = (loss_B + sum(weight * term_B for weight, term_B in terms.values())).mean()
        metrics |= {name: term_B.mean() for name, (_, term_B) in terms.items()}
        metrics |= {name: term_B.mean() for name, term_B in differences.items()} | {"loss": loss}
        return loss, _Made(metrics, decoded_BA, quantized)

    def _adversarial_terms(
        self, discriminator_params: Arrays, audio_BA: jax.Array, decoded_BA: jax.Array
    ) -> dict[str, tuple[float, jax.Array]]:
        """The codec's losses from the discriminator: (weight, loss [B]) by name."""
        settings, discriminator = self.settings.discriminator, self._discriminator[1](discriminator_params, None)
        true, decoded = discriminator(audio_BA), discriminator(decoded_BA)
        return {
            "adversarial": (settings.adversarial, adversarial_loss(decoded)),
            "feature_matching": (settings.feature_matching, feature_loss(true, decoded)),
        }

    def _discriminator_loss(
        self, discriminator_params: Arrays, audio_BA: jax.Array, decoded_BA: jax.Array
    ) -> jax.Array:
        discriminator = self._discriminator[1](discriminator_params, None)
        return discriminator_loss(discriminator(audio_BA), discriminator(decoded_BA)).mean()

    def _key(self, step: jax.Array) -> jax.Array:
        # Each use folds in a number of its own: 1 for k-means, 2 for dead codes, 3 for the numbers of codebooks.
        return jax.random.fold_in(jax.random.key(self.settings.seed), step)

    def _draw_codebooks(self, step: jax.Array, n_rows: int) -> jax.Array:
        """Number of codebooks that each row is decoded from, int32 [B]: quantiser dropout."""
        # All is one of the random numbers: with 8 codebooks and the default 0.4, 0.6 + 0.4 / 8 = 65 % of rows read all.
        is_fewer, how_many = jax.random.split(jax.random.fold_in(self._key(step), 3))
        return jnp.where(
            jax.random.uniform(is_fewer, (n_rows,)) < self.settings.fewer_share,
            jax.random.randint(how_many, (n_rows,), 1, self.n_codebooks + 1),
            self.n_codebooks,
        )


class _Made(NamedTuple):
    """Auxiliary output of a forward pass, which the rest of the step reads."""

    metrics: dict[str, jax.Array]
    decoded_BA: jax.Array
    quantized: Quantized | None  # None in an unquantized step


def _move(optimizer: optax.GradientTransformation, gradients: Any, params: Any, opt_state: Any) -> dict[str, Any]:
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return {"params": optax.apply_updates(params, updates), "opt_state": opt_state}


def _choose(is_new: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(is_new, a, b), new, old)


class TrainedCodec(NamedTuple):
    """A trained codec, in the dtype it had before, and the result of the run."""

    network: Codec
    result: RunResult


@under_own_config
def train_codec(
    model: BarkModel,
    dataset: Dataset,
    folder: str | os.PathLike[str],
    run: RunSettings,
    *,
    settings: CodecSettings | None = None,
    optimizer: OptimizerSettings | None = None,
    devices: Sequence[jax.Device] | None = None,
    show_progress: bool = True,
    stop: Callable[[], bool] | None = None,
) -> TrainedCodec:
    """Trains the codec of a model on the dataset's audio. Does not change the model.

    With parts="all" every code changes its meaning. Run `recode` on the dataset before training transformers on it;
    transformers trained with the old codes no longer work with the new codec.

    Args:
      model: start of the training, any dtype; its codec may have random weights.
      dataset: prepared with its audio (keep_audio), at the model's rates.
      folder: run folder, see `loop`. A stopped run in it is resumed.
      run: number of steps, and how often to evaluate and save.
      settings: CodecSettings() if None.
      optimizer: OPTIMIZER if None.
      devices: split the rows of a batch, with all parameters on each (data parallel); None is JAX's default device.
      show_progress: shows a progress bar on a terminal.
      stop: called after every step but the last; if it returns True, the state is saved and the run stops.

    Raises:
      InputError: settings that do not fit the dataset, the model or the run in the folder.
      TrainingError: too many consecutive steps had non-finite gradients.
      TrainingStopped: `stop` returned True.
    """
    settings = CodecSettings() if settings is None else settings
    optimizer = OPTIMIZER if optimizer is None else optimizer
    codec = model.codec_model
    _check_fit(model, dataset)
    check_rows(settings.batch_size, 1, devices)
    discriminator = settings.discriminator
    training = CodecTraining(
        codec,
        make_optimizer(optimizer, run.n_steps),
        settings,
        model.spaces.n_fine,
        None
        if discriminator is None
        # optax counts this optimizer's own updates: its schedule begins at from_step by itself, and is shorter.
        else make_optimizer(discriminator.optimizer, max(run.n_steps - discriminator.from_step, 1)),
        None if devices is None else tuple(devices),
    )
    sizes = {"batch_size": settings.batch_size, "n_frames": settings.n_frames, "seed": settings.seed}
    learn, held_out = dataset.split(settings.eval_share, seed=settings.seed)
    evaluation = []
    if len(held_out):
        # Without the random gain: loudness as recorded. The same crops at each evaluation, as the steps are the same.
        make_evaluation = codec_batches(held_out, **sizes)
        evaluation = [make_evaluation(step) for step in range(settings.eval_batches)]
    with memory_errors(
        f"training the codec, {settings.batch_size} rows at once",
        "Give a smaller batch_size (--batch-size) or n_frames",
    ):
        result = fit(
            training,
            codec_batches(learn, **sizes, gain=settings.gain),
            folder,
            run,
            evaluation=evaluation,
            identity={
                "network": NETWORK,
                "settings": dataclasses.asdict(settings),
                "optimizer": dataclasses.asdict(optimizer),
                "start": fingerprint(codec),
                "data": {"examples": len(dataset), "seconds": round(dataset.seconds, 2)},
            },
            show_progress=show_progress,
            stop=stop,
        )
    _, assemble = full_network(codec, lambda _: codec, codec.dtype)
    return TrainedCodec(assemble(training.arrays(result.state), None), result)


def _check_fit(model: BarkModel, dataset: Dataset) -> None:
    check_same_meaning(dataset.spaces, model.spaces, "the dataset")
    config = model.codec_model.config
    found, expected = (
        (config.hop_length, config.sampling_rate),
        (samples_per_frame(model.spaces), model.spaces.sample_rate),
    )
    if found != expected:
        raise InputError(
            f"the codec has hop_length and sampling_rate {found}, expected {expected}: it is not this model's"
        )

"""EnCodec: audio to codes (encode), codes to audio (decode), and codes to audio frame by frame (streaming decode).

Source: transformers, models/encodec/modeling_encodec.py (behaviour); Défossez et al., High Fidelity Neural Audio
Compression, https://arxiv.org/abs/2210.13438.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bark_jax._system.forks import check_process
from bark_jax.config import EncodecConfig, require
from bark_jax.errors import InputError, UnsupportedError
from bark_jax.networks.codec.quantizer import Quantizer
from bark_jax.networks.codec.seanet import Decoder, Encoder
from bark_jax.networks.platform import resolve_platform

MIN_SCALE = 1e-8  # added to a chunk's loudness, so that silence is not divided by zero


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chunk:
    """A piece of audio, encoded independently of the other pieces."""

    codes_BQT: jax.Array  # int32, coarse codebook first
    # float32, loudness (root mean square) that decoded audio is multiplied by; None where config.normalize is false
    scale_B: jax.Array | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """State of the streaming decoder after the frames so far."""

    layers: tuple[Any, ...]  # for each layer: the end of its input (convolutions), hidden and cell (LSTM), or nothing
    # Static: the first step, which pads the start of the clip, and later ones are two programs without branches.
    started: bool = dataclasses.field(metadata={"static": True})


class Codec(nnx.Module):
    """The codec. Audio is [B, A, channels], about -1..1; codes are integers [B, Q, T]; A = T * config.hop_length.

    Args:
      config: the codec's size, rates and padding.
      dtype: dtype of parameters and activations; the LSTM's state and the quantiser's distances are float32.
      platform: as for `BarkCausalModel`, though a codec is traced alike for all platforms.
      rngs: draws the parameters; nnx.Rngs(0) if None.

    Raises:
      ConfigError: config has chunk_length_s and no overlap.
      InputError: platform is unknown.
    """

    def __init__(
        self,
        config: EncodecConfig,
        *,
        dtype: Any = jnp.float32,
        platform: str | None = None,
        rngs: nnx.Rngs | None = None,
    ):
        rngs = nnx.Rngs(0) if rngs is None else rngs
        has_overlap = config.chunk_length_s is None or config.overlap is not None
        require(config, has_overlap, "overlap", "a ratio in [0, 1) where chunk_length_s is given")
        self.config = config
        self.dtype = jnp.dtype(dtype)
        self.platform = resolve_platform(platform)
        self.encoder = Encoder(config, dtype=self.dtype, rngs=rngs)
        self.decoder = Decoder(config, dtype=self.dtype, rngs=rngs)
        self.quantizer = Quantizer(config, dtype=self.dtype, rngs=rngs)

    def decode(
        self, codes_BQT: jax.Array, lengths_B: jax.Array | None = None, *, scale_B: jax.Array | None = None
    ) -> jax.Array:
        """Turns codes into audio.

        Args:
          codes_BQT: integers in [0, config.codebook_size), coarse codebook first; T >= 1 frames. Q may be less than the
            codebooks held. A code out of range gives NaN.
          lengths_B: true frames of each row of a right-padded batch. A row's audio is then what it gives alone, and
            codes past its end have no effect. None: all rows are T frames long.
          scale_B: loudness from a Chunk, which the audio is multiplied by.

        Returns:
          audio [B, T * config.hop_length, channels] in the model's dtype, zeros beyond a row's end.

        Raises:
          InputError: codes have a wrong shape or dtype; or lengths_B is given for a codec that looks ahead (is not
            causal), which mixes a row's end with its padding.
        """
        check_process()
        if lengths_B is not None:
            lengths_B = self._checked_lengths(lengths_B, codes_BQT.shape[0])
        audio_BAC = self.decoder(self.embed_codes(codes_BQT), lengths_B)
        if scale_B is not None:
            audio_BAC = (audio_BAC * scale_B[:, None, None]).astype(self.dtype)
        return audio_BAC

    def embed_codes(self, codes_BQT: jax.Array) -> jax.Array:
        """Embeds codes [B, Q, T] as the decoder's input x [B, T, config.hidden_size]. Raises InputError as `decode`."""
        held = self.config.num_quantizers
        if codes_BQT.ndim != 3 or not 1 <= codes_BQT.shape[1] <= held or codes_BQT.shape[2] < 1:
            raise InputError(
                f"codes have shape {codes_BQT.shape}, expected [batch, codebooks, frames] with 1 to {held} codebooks "
                "and 1 frame or more"
            )
        if not jnp.issubdtype(codes_BQT.dtype, jnp.integer):
            raise InputError(f"codes have dtype {codes_BQT.dtype}, expected integers")
        return self.quantizer.embed(codes_BQT)

    def encode(self, audio: jax.Array, *, n_codebooks: int | None = None, bandwidth: float | None = None) -> jax.Array:
        """Turns audio into codes, for codecs that neither normalise nor chunk it (the 24 kHz one).

        Args:
          audio: [B, A, channels], or [B, A] for a mono codec; A >= 1 samples at config.sampling_rate.
          n_codebooks: number of codebooks Q to use, coarse first.
          bandwidth: instead of n_codebooks, one of config.target_bandwidths, in kbit/s; with neither, the lowest. At 75
            frames of 10 bits a codebook takes 0.75 kbit/s, so 6 kbit/s are 8 codebooks.

        Returns:
          codes_BQT, int32, T = ceil(A / config.hop_length): a last frame that is not full is padded like the ends.

        Raises:
          InputError: a wrong shape, n_codebooks or bandwidth; or the codec needs `encode_chunks`.
        """
        check_process()
        if self.config.normalize or self.config.chunk_length is not None:
            raise InputError("this codec normalises or chunks its audio; use encode_chunks, which keeps the scales")
        return self._quantize(self._as_BAC(audio), self._count_codebooks(n_codebooks, bandwidth))

    def encode_chunks(
        self, audio: jax.Array, *, n_codebooks: int | None = None, bandwidth: float | None = None
    ) -> tuple[Chunk, ...]:
        """Turns audio into chunks of codes: one every config.chunk_stride samples, or one in all without chunking.

        Chunks are config.chunk_length samples long and overlap by chunk_length - chunk_stride; the last may be shorter.
        The 48 kHz codec has chunks of 48,000 samples every 47,520: 100,000 samples make chunks from 0, 47,520, 95,040.

        Arguments are those of `encode`. Raises InputError for a wrong shape, n_codebooks or bandwidth.
        """
        check_process()
        audio_BAC, n_codebooks = self._as_BAC(audio), self._count_codebooks(n_codebooks, bandwidth)
        n_samples = audio_BAC.shape[1]
        length = self.config.chunk_length or n_samples
        starts = range(0, n_samples, self.config.chunk_stride or n_samples)
        return tuple(self._encode_chunk(audio_BAC[:, start : start + length], n_codebooks) for start in starts)

    def decode_chunks(self, chunks: Sequence[Chunk]) -> jax.Array:
        """Turns chunks from `encode_chunks` into audio [B, A, channels], cross-faded where they overlap.

        A chunk is a number of full frames, so the result may be up to a frame longer than the audio that was encoded.
        Raises InputError for no chunks, or for several where the config has no chunk_length_s.
        """
        check_process()
        if not chunks:
            raise InputError("there are no chunks, expected one or more")
        if len(chunks) > 1 and self.config.chunk_length is None:
            raise InputError(f"there are {len(chunks)} chunks, expected one: chunk_length_s is null")
        pieces = [self.decode(chunk.codes_BQT, scale_B=chunk.scale_B) for chunk in chunks]
        return pieces[0] if len(pieces) == 1 else overlap_add(pieces, self.config.chunk_stride)

    @property
    def min_first_frames(self) -> int:
        """Minimum frames of the first `decode_step`: 7 for the 24 kHz codec, 1 where padding is constant."""
        return self.decoder.min_first_frames

    def init_decode_state(self, batch: int) -> DecodeState:
        """The state before the first frame of `batch` rows. Raises UnsupportedError for codecs that look ahead."""
        if not self.decoder.is_causal:
            raise UnsupportedError(
                "this codec looks ahead (use_causal_conv is false, norm_type is 'time_group_norm' or trim_right_ratio "
                "is below 1), so it cannot decode frames as they come; use decode"
            )
        shapes = jax.eval_shape(lambda: self.decoder.init_state(batch))
        # numpy's zeros: jnp.zeros would compile one program for each shape.
        layers = jax.tree.map(lambda array: np.zeros(array.shape, array.dtype), shapes)
        return DecodeState(layers=layers, started=False)

    def decode_step(self, codes_BQT: jax.Array, state: DecodeState) -> tuple[jax.Array, DecodeState]:
        """Turns the next frames into audio: the samples that `decode` of the complete clip has there, to rounding.

        The start of a clip is padded with its own first frames, mirrored. So the first call takes min_first_frames or
        more and later ones 1 or more; a clip shorter than that is for `decode`. Under `jax.jit` the first call and
        later ones are two programs.

        Args:
          codes_BQT: as for `decode`; T may differ from call to call, though each T compiles a program.
          state: from `init_decode_state` or the previous call.

        Returns:
          (audio [B, T * config.hop_length, channels], state for the next call)

        Raises:
          InputError: codes have a wrong shape or dtype, or the first call has fewer than min_first_frames frames.
        """
        check_process()
        if not state.started and codes_BQT.shape[-1] < self.min_first_frames:
            raise InputError(
                f"the first step has {codes_BQT.shape[-1]} frames, expected {self.min_first_frames} or more: collect "
                "more frames first, or use decode if the clip is complete"
            )
        audio_BAC, layers = self.decoder.step(self.embed_codes(codes_BQT), state.layers, state.started)
        return audio_BAC, DecodeState(layers=layers, started=True)

    def _checked_lengths(self, lengths_B: jax.Array, batch: int) -> jax.Array:
        if not self.config.use_causal_conv or self.config.norm_type == "time_group_norm":
            raise InputError(
                "lengths_B is given, but this codec looks ahead (use_causal_conv is false or norm_type is "
                "'time_group_norm'), so padding would change a row's end; decode row by row, without padding"
            )
        lengths_B = jnp.asarray(lengths_B, jnp.int32)  # a narrower integer would overflow when counting samples
        if lengths_B.shape != (batch,):
            raise InputError(f"lengths_B has shape {lengths_B.shape}, expected ({batch},): one length a row")
        return lengths_B

    def _encode_chunk(self, audio_BAC: jax.Array, n_codebooks: int) -> Chunk:
        if not self.config.normalize:
            return Chunk(self._quantize(audio_BAC, n_codebooks), scale_B=None)
        mono_BA = audio_BAC.astype(jnp.float32).mean(axis=-1)
        scale_B = jnp.sqrt(jnp.square(mono_BA).mean(axis=-1)) + MIN_SCALE
        return Chunk(self._quantize(audio_BAC / scale_B[:, None, None], n_codebooks), scale_B)

    def _quantize(self, audio_BAC: jax.Array, n_codebooks: int) -> jax.Array:
        return self.quantizer.quantize(self.encoder(audio_BAC.astype(self.dtype)), n_codebooks)

    def _as_BAC(self, audio: jax.Array) -> jax.Array:
        channels = self.config.audio_channels
        audio_BAC = audio[..., None] if audio.ndim == 2 and channels == 1 else audio
        if audio_BAC.ndim != 3 or audio_BAC.shape[2] != channels or audio_BAC.shape[1] < 1:
            raise InputError(
                f"audio has shape {audio.shape}, expected [batch, samples, {channels}]"
                + (" or [batch, samples]" if channels == 1 else "")
            )
        return audio_BAC

    def _count_codebooks(self, n_codebooks: int | None, bandwidth: float | None) -> int:
        if n_codebooks is not None and bandwidth is not None:
            raise InputError("both n_codebooks and bandwidth are given, expected one of them")
        if n_codebooks is not None:
            if not 1 <= n_codebooks <= self.config.num_quantizers:
                raise InputError(f"n_codebooks is {n_codebooks}, expected 1 to {self.config.num_quantizers}")
            return n_codebooks
        bandwidths = self.config.target_bandwidths
        bandwidth = bandwidths[0] if bandwidth is None else bandwidth
        if bandwidth not in bandwidths:
            raise InputError(f"bandwidth is {bandwidth} kbit/s, expected one of {bandwidths}")
        return max(1, math.floor(1000 * bandwidth / (self.config.codebook_nbits * self.config.frame_rate)))


def overlap_add(pieces: Sequence[jax.Array], stride: int) -> jax.Array:
    """Joins pieces [B, A, C] that start `stride` samples apart; where they overlap, one fades into the next.

    Each sample is the mean of the pieces there, weighted by a triangle over a piece; for two pieces that is a nearly
    linear cross-fade. Last pieces may be shorter and take the first part of the triangle. Sums are float32.

        pieces of 4, stride 3: triangle 1/5 2/5 2/5 1/5
        sample 3 = (1/5 * last of the first + 1/5 * first of the second) / (2/5)

    Returns:
      [B, total, C] in the pieces' dtype; total is the end of the piece that ends last.

    Source: transformers, models/encodec/modeling_encodec.py, `_linear_overlap_add`.
    """
    longest = pieces[0].shape[1]
    ramp_A = jnp.minimum(jnp.arange(1, longest + 1), jnp.arange(longest, 0, -1)).astype(jnp.float32) / (longest + 1)
    total = max(i * stride + piece.shape[1] for i, piece in enumerate(pieces))
    B, _, C = pieces[0].shape
    sum_BAC, weight_A = jnp.zeros((B, total, C), jnp.float32), jnp.zeros(total, jnp.float32)
    for i, piece_BAC in enumerate(pieces):
        here = slice(i * stride, i * stride + piece_BAC.shape[1])
        piece_ramp_A = ramp_A[: piece_BAC.shape[1]]
        sum_BAC = sum_BAC.at[:, here].add(piece_ramp_A[None, :, None] * piece_BAC)
        weight_A = weight_A.at[here].add(piece_ramp_A)
    return (sum_BAC / weight_A[None, :, None]).astype(pieces[0].dtype)

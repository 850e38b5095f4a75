"""Config dataclasses: sizes of the four networks and settings of generation, under transformers' field names.

Two files describe a model: `config.json` (BarkConfig, EncodecConfig) and `generation_config.json`
(BarkGenerationConfig). Unknown keys are ignored on reading, as transformers writes many; a value that cannot work is
refused with the name of its field. Whether the two files fit each other is checked in `generation/tokens.py`.

Defaults are those of the transformers classes, because its files leave out what equals a default. They are not the
sizes of a published Bark: for these see `BarkConfig.small` and `BarkConfig.large`.

Source: transformers 5.23, models/bark/{configuration,generation_configuration}_bark.py and
models/encodec/configuration_encodec.py.
"""

import dataclasses
import functools
import json
import math
import os
import types
import typing
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from pathlib import Path
from typing import Any, ClassVar, Self

from bark_jax.errors import ConfigError, ModelNotFoundError, quoted
from bark_jax.hub.source import Source

CONFIG_FILE = "config.json"
GENERATION_CONFIG_FILE = "generation_config.json"

# Far above any Bark; a config beyond them is a typing error, or a few bytes that would run the machine out of memory.
MAX_JSON_BYTES = 16 * 2**20
MAX_LAYERS = 256
MAX_WIDTH = 2**16
MAX_VOCABULARY = 2**22
MAX_POSITIONS = 2**20
# Attention scores are [num_heads, block_size, block_size]: 2**24 pairs in a large Bark (16 heads, 1,024 positions),
# 64 MiB as float32.
MAX_BLOCK = 2**13
MAX_HEADS = 256
MAX_ATTENTION_PAIRS = 2**28
MAX_REACH = 2**16  # (kernel size - 1) * dilation of a residual layer: steps of its input that it looks back
MAX_RATE_HZ = 10_000
MAX_TOP_K = 2**31 - 1
MAX_BANDWIDTH = 10**6
MAX_CHUNK_S = 86_400

# Arguments that every config class of transformers takes. No network here reads them; the stages read the token ids of
# the generation config.
UNREAD_IDS = frozenset({"bos_token_id", "eos_token_id", "pad_token_id"})


class JsonConfig:
    """Base class of all configs: checked construction from a dict or a JSON file, and writing both.

    Fields can also be read as those of a dict, `config["temperature"]` and `**config`: transformers keeps the parts of
    its generation config as dicts. They cannot be set: `dataclasses.replace` makes a config with other values.

    Construction raises ConfigError for a value of the wrong type, or one that cannot work.
    """

    model_type: ClassVar[str]
    file_name: ClassVar[str] = CONFIG_FILE  # in a model's folder
    old_names: ClassVar[Mapping[str, str]] = {}  # {another name of a field in transformers: the field}

    def __post_init__(self):
        for name, value in self._as_dict().items():
            object.__setattr__(self, name, _frozen(value))
        check_types(self)
        self.check()

    def check(self) -> None:
        """Raises ConfigError where a field's value cannot work."""

    def __getitem__(self, name: str) -> Any:
        """The field's value. Raises KeyError where there is no such field."""
        return self._as_dict()[name]

    def __contains__(self, name: object) -> bool:
        return name in self._as_dict()

    def __iter__(self) -> Iterator[str]:
        return iter(self._as_dict())

    def __len__(self) -> int:
        return len(dataclasses.fields(self))

    def keys(self) -> KeysView[str]:
        """The names of the fields, as the config's class takes them."""
        return self._as_dict().keys()

    def values(self) -> ValuesView[Any]:
        """The values of the fields, in the order of `keys`."""
        return self._as_dict().values()

    def items(self) -> ItemsView[str, Any]:
        """The fields' names and values."""
        return self._as_dict().items()

    def get(self, name: str, default: Any = None) -> Any:
        """The field's value, or `default` where there is no such field."""
        return self._as_dict().get(name, default)

    def _as_dict(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds the config from the content of its JSON file; unknown keys are ignored, old names are accepted.

        Raises:
          ConfigError: `values` is no JSON object, is of another model_type, or has a value that cannot work.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls.__name__}: expected a JSON object, got {type(values).__name__}")
        named_type = values.get("model_type")
        if named_type is not None and named_type != cls.model_type:
            raise ConfigError(f"{cls.__name__}: model_type is {quoted(named_type)}, expected {cls.model_type!r}")
        current_names = cls._with_current_names(values)
        known = {field.name for field in dataclasses.fields(cls) if field.init}
        return cls(**{name: value for name, value in current_names.items() if name in known})

    @classmethod
    def _with_current_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Renames old names of fields to current ones. Raises ConfigError where a field has both, with two values."""
        current: dict[str, Any] = {}
        for name, value in values.items():
            field = cls.old_names.get(name, name)
            if field in current and current[field] != value:
                raise ConfigError(
                    f"{cls.__name__}.{field} is {quoted(current[field])} and, under another of its names, "
                    f"{quoted(value)}; take one of them out"
                )
            current[field] = value
        return current

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        subfolder: str = "",
    ) -> Self:
        """Reads the config of a model's folder or Hub repository.

        The class of one network, such as BarkSemanticConfig, also reads its part of a Bark's config.json.

        Args:
          pretrained_model_name_or_path: a folder, a Hub id, or "tiny" for the built-in model.
          revision, token, cache_dir, local_files_only: as in huggingface_hub.
          subfolder: the folder in the model's folder or repository that has the file.

        Raises:
          ModelNotFoundError: no such model, or it has no such file.
          ConfigError: the file is damaged, or of another model.
        """
        source = Source(
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        path = f"{subfolder}/{cls.file_name}" if subfolder else cls.file_name
        file = source.find(path)
        if file is None:
            raise ModelNotFoundError(f"{source.name} has no {path}")
        values = read_json(file)
        bark_class = BarkGenerationConfig if cls.file_name == GENERATION_CONFIG_FILE else BarkConfig
        part = next((name for name, part_class in bark_class._parts.items() if part_class is cls), None)
        if isinstance(values, Mapping) and part in values:
            values = _or_empty(values[part])
        return parse_config(file, cls, values)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Writes the config's file into a folder, which is made if missing."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        save_json(self, Path(save_directory, self.file_name))

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> Self:
        """Reads the config from its JSON file. Raises ConfigError or ModelNotFoundError with the path."""
        return read_config(json_file, cls)

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Writes the config's JSON file."""
        save_json(self, json_file_path)

    def to_json_string(self) -> str:
        """The config as JSON text, indented by two spaces."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The config as transformers writes it, `model_type` included."""
        return {"model_type": self.model_type} | {
            name: value.to_dict() if isinstance(value, JsonConfig) else value for name, value in self.items()
        }


Config = typing.TypeVar("Config", bound=JsonConfig)


def with_old_names(cls: type[Config]) -> type[Config]:
    """Decorator that makes a class accept the `old_names` of its fields too: BarkSemanticConfig(num_hidden_layers=2).

    Its `__init__` also ignores UNREAD_IDS, and raises ConfigError where both names of a field are given and differ.
    """
    make = cls.__init__

    @functools.wraps(make)
    def init(self: Config, *args: Any, **values: Any) -> None:
        values = {name: value for name, value in values.items() if name not in UNREAD_IDS}
        make(self, *args, **cls._with_current_names(values))

    cls.__init__ = init
    return cls


def _frozen(value: Any) -> Any:
    """Turns lists into tuples, so that a config can be hashed: it is a key of caches."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def check_types(config: JsonConfig) -> None:
    """Raises ConfigError for the first field whose value is not of its annotated type, or is NaN or infinite."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not _is_instance(value, hints[field.name]):
            raise ConfigError(
                f"{type(config).__name__}.{field.name} is {quoted(value)}, expected {_type_name(hints[field.name])}"
            )
        if not all(map(_is_finite, value if isinstance(value, tuple) else [value])):
            raise ConfigError(f"{type(config).__name__}.{field.name} is {quoted(value)}, expected finite numbers")


def _is_finite(value: Any) -> bool:
    """Whether a value is a finite number, or no number at all. An integer beyond float64, which JSON allows, is not."""
    try:
        return not isinstance(value, (int, float)) or math.isfinite(value)
    except OverflowError:
        return False


def _is_instance(value: Any, expected: Any) -> bool:
    origin = typing.get_origin(expected)
    if origin in (typing.Union, types.UnionType):
        return any(_is_instance(value, choice) for choice in typing.get_args(expected))
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_instance(item, typing.get_args(expected)[0]) for item in value)
    # bool is a subclass of int in Python: without the exclusion, true would be the number 1.
    if expected is float:  # JSON writes 75 for 75.0
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, expected)


def _type_name(expected: Any) -> str:
    return getattr(expected, "__name__", None) if typing.get_origin(expected) is None else str(expected)


def require(config: JsonConfig, is_right: bool, field: str, expected: str) -> None:
    """Raises ConfigError naming `field`, its value and what was expected, unless `is_right`."""
    if not is_right:
        raise ConfigError(f"{type(config).__name__}.{field} is {quoted(getattr(config, field))}, expected {expected}")


def _require_between(config: JsonConfig, field: str, low: float, high: float) -> None:
    require(config, low <= getattr(config, field) <= high, field, f"a number from {low} to {high}")


@with_old_names
@dataclasses.dataclass(frozen=True)
class BarkSubModelConfig(JsonConfig):
    """Size of one transformer (GPT).

    block_size is the maximum context length in positions. hidden_size is the model's width D, of which each of
    num_heads heads takes an equal slice. bias says whether Linear layers, and the LayerNorms of the causal networks,
    have one. dropout and initializer_range matter for training and random weights only.
    """

    model_type: ClassVar[str] = "bark_sub_model"
    old_names: ClassVar[Mapping[str, str]] = {
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "vocab_size": "input_vocab_size",
        "window_size": "block_size",
    }

    block_size: int = 1024
    input_vocab_size: int = 10_048
    output_vocab_size: int = 10_048
    num_layers: int = 12
    num_heads: int = 12
    hidden_size: int = 768
    dropout: float = 0.0
    bias: bool = True
    initializer_range: float = 0.02
    use_cache: bool = True

    @property
    def head_size(self) -> int:
        """Width H of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def num_attention_heads(self) -> int:
        """transformers' other name of num_heads."""
        return self.num_heads

    @property
    def num_hidden_layers(self) -> int:
        """transformers' other name of num_layers."""
        return self.num_layers

    @property
    def vocab_size(self) -> int:
        """transformers' other name of input_vocab_size."""
        return self.input_vocab_size

    @property
    def window_size(self) -> int:
        """transformers' other name of block_size."""
        return self.block_size

    def check(self) -> None:
        """Raises ConfigError for a size that cannot work, or is far beyond any Bark."""
        _require_between(self, "num_layers", 1, MAX_LAYERS)
        _require_between(self, "hidden_size", 1, MAX_WIDTH)
        _require_between(self, "input_vocab_size", 1, MAX_VOCABULARY)
        _require_between(self, "output_vocab_size", 1, MAX_VOCABULARY)
        require(
            self,
            self.num_heads >= 1 and self.hidden_size % self.num_heads == 0,
            "num_heads",
            f"a divisor of hidden_size {self.hidden_size}",
        )
        _require_between(self, "num_heads", 1, MAX_HEADS)
        # 4,096 for 16 heads, 4,729 for 12: Bark's 1,024 positions are far below.
        max_block_size = min(MAX_BLOCK, math.isqrt(MAX_ATTENTION_PAIRS // self.num_heads))
        require(
            self,
            1 <= self.block_size <= max_block_size,
            "block_size",
            f"a number from 1 to {max_block_size}: attention in {self.num_heads} heads takes memory with its square",
        )
        require(self, 0 <= self.dropout < 1, "dropout", "a probability in [0, 1)")
        require(self, self.initializer_range >= 0, "initializer_range", "a standard deviation, 0 or more")


@with_old_names
@dataclasses.dataclass(frozen=True)
class BarkSemanticConfig(BarkSubModelConfig):
    """Size of the semantic model, which reads text tokens and generates semantic tokens."""

    model_type: ClassVar[str] = "semantic"


@with_old_names
@dataclasses.dataclass(frozen=True)
class BarkCoarseConfig(BarkSubModelConfig):
    """Size of the coarse model, which reads semantic tokens and generates coarse codes."""

    model_type: ClassVar[str] = "coarse_acoustics"


@with_old_names
@dataclasses.dataclass(frozen=True)
class BarkFineConfig(BarkSubModelConfig):
    """Size of the fine model, which reads coarse codes and predicts the codes of all n_codes_total codebooks.

    The first n_codes_given codebooks are given and have no output head; codebook `n_codes_given` is the first with one.
    """

    model_type: ClassVar[str] = "fine_acoustics"

    n_codes_total: int = 8
    n_codes_given: int = 1
    tie_word_embeddings: bool = True

    def check(self) -> None:
        """Raises ConfigError for a size that cannot work, or a network unlike every published Bark's."""
        super().check()
        _require_between(self, "n_codes_total", 2, 256)
        require(
            self,
            self.n_codes_given == 1,
            "n_codes_given",
            "1: head i is tied to embedding table i + 1 in every published Bark",
        )
        require(self, self.tie_word_embeddings, "tie_word_embeddings", "true: the heads are the embedding tables")
        require(
            self,
            self.output_vocab_size == self.input_vocab_size,
            "output_vocab_size",
            f"input_vocab_size {self.input_vocab_size}, as the heads are tied to the tables",
        )


# By the model_type in their config files, which is also the name of the network.
TRANSFORMER_CONFIGS: Mapping[str, type[BarkSubModelConfig]] = {
    config.model_type: config for config in (BarkSemanticConfig, BarkCoarseConfig, BarkFineConfig)
}


@dataclasses.dataclass(frozen=True)
class EncodecConfig(JsonConfig):
    """Size of an EnCodec codec: SEANet encoder and decoder around a residual vector quantiser.

    upsampling_ratios are the decoder's strides, first to last; the encoder uses them in reverse. Their product is the
    number of audio samples a frame: 8 * 5 * 4 * 2 = 320 at 24 kHz, 75 frames a second. target_bandwidths are in kbit/s;
    the last gives the number of codebooks. overlap is the fraction of a chunk that the next repeats.
    """

    model_type: ClassVar[str] = "encodec"

    target_bandwidths: tuple[float, ...] = (1.5, 3.0, 6.0, 12.0, 24.0)
    sampling_rate: int = 24_000
    audio_channels: int = 1
    normalize: bool = False
    chunk_length_s: float | None = None
    overlap: float | None = None
    hidden_size: int = 128
    num_filters: int = 32
    num_residual_layers: int = 1
    upsampling_ratios: tuple[int, ...] = (8, 5, 4, 2)
    norm_type: str = "weight_norm"
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    dilation_growth_rate: int = 2
    use_causal_conv: bool = True
    pad_mode: str = "reflect"
    compress: int = 2
    num_lstm_layers: int = 2
    trim_right_ratio: float = 1.0
    codebook_size: int = 1024
    codebook_dim: int | None = None
    use_conv_shortcut: bool = True

    def __post_init__(self):
        if self.codebook_dim is None:
            object.__setattr__(self, "codebook_dim", self.hidden_size)
        super().__post_init__()

    @property
    def hop_length(self) -> int:
        """Audio samples a frame: the product of the strides."""
        return math.prod(self.upsampling_ratios)

    @property
    def frame_rate(self) -> int:
        """Frames a second, rounded up."""
        return math.ceil(self.sampling_rate / self.hop_length)

    @property
    def codebook_nbits(self) -> int:
        """Bits of one code: 10 for 1,024 codes."""
        return math.ceil(math.log2(self.codebook_size))

    @property
    def num_quantizers(self) -> int:
        """Number of codebooks in the checkpoint: 24,000 bit/s over 75 frames/s of 10 bits each gives 32.

        Bark uses the first eight of those.
        """
        return int(1000 * self.target_bandwidths[-1] // (self.frame_rate * self.codebook_nbits))

    @property
    def chunk_length(self) -> int | None:
        """Audio samples of a chunk that is coded on its own; None where the waveform is coded at once."""
        return None if self.chunk_length_s is None else int(self.chunk_length_s * self.sampling_rate)

    @property
    def chunk_stride(self) -> int | None:
        """Audio samples from the start of one chunk to the start of the next; None without chunks."""
        if self.chunk_length_s is None or self.overlap is None:
            return None
        # 47,520 in the 48 kHz codec: 0.99 of a chunk of 1 s.
        return max(1, int((1.0 - self.overlap) * self.chunk_length))

    def check(self) -> None:
        """Raises ConfigError for a size that cannot work, or is far beyond any EnCodec."""
        for field in ("sampling_rate", "hidden_size", "num_filters", "kernel_size", "last_kernel_size"):
            _require_between(self, field, 1, MAX_POSITIONS)
        for field in ("dilation_growth_rate", "compress"):
            _require_between(self, field, 1, MAX_POSITIONS)
        _require_between(self, "residual_kernel_size", 1, MAX_REACH)
        _require_between(self, "audio_channels", 1, 2)
        _require_between(self, "num_residual_layers", 0, 64)
        dilation = self.dilation_growth_rate ** max(0, self.num_residual_layers - 1)
        require(
            self,
            self.num_residual_layers == 0 or (self.residual_kernel_size - 1) * dilation <= MAX_REACH,
            "dilation_growth_rate",
            f"a rate at which the last of {self.num_residual_layers} residual layers looks back at most {MAX_REACH}",
        )
        _require_between(self, "num_lstm_layers", 1, 64)
        _require_between(self, "codebook_size", 2, MAX_VOCABULARY)
        require(self, self.codebook_size & (self.codebook_size - 1) == 0, "codebook_size", "a power of two")
        require(
            self,
            1 <= len(self.upsampling_ratios) <= 16 and all(1 <= ratio <= 1024 for ratio in self.upsampling_ratios),
            "upsampling_ratios",
            "1 to 16 strides, each from 1 to 1024",
        )
        require(
            self,
            self.hop_length <= self.sampling_rate,
            "upsampling_ratios",
            f"strides whose product, the audio samples of a frame, is at most sampling_rate {self.sampling_rate}",
        )
        require(
            self,
            bool(self.target_bandwidths)
            and all(0 < bandwidth <= MAX_BANDWIDTH for bandwidth in self.target_bandwidths),
            "target_bandwidths",
            f"one number or more, in kbit/s, above 0 and up to {MAX_BANDWIDTH}",
        )
        require(
            self,
            1 <= self.num_quantizers <= 1024,
            "target_bandwidths",
            f"a last value that is enough for 1 to 1024 codebooks at {self.frame_rate} frames a second",
        )
        require(
            self,
            self.norm_type in ("weight_norm", "time_group_norm"),
            "norm_type",
            "'weight_norm' or 'time_group_norm'",
        )
        require(self, self.pad_mode in ("reflect", "constant"), "pad_mode", "'reflect' or 'constant'")
        require(
            self,
            self.codebook_dim == self.hidden_size,
            "codebook_dim",
            f"hidden_size {self.hidden_size}: the codebooks hold vectors that the decoder reads",
        )
        require(self, 0 <= self.trim_right_ratio <= 1, "trim_right_ratio", "a ratio in [0, 1]")
        require(
            self,
            self.use_causal_conv or self.trim_right_ratio == 1.0,
            "trim_right_ratio",
            "1.0 where use_causal_conv is false",
        )
        require(
            self,
            self.chunk_length_s is None or 1 / self.sampling_rate <= self.chunk_length_s <= MAX_CHUNK_S,
            "chunk_length_s",
            f"null or seconds up to {MAX_CHUNK_S}, at least one audio sample",
        )
        require(self, self.overlap is None or 0 <= self.overlap < 1, "overlap", "a ratio in [0, 1)")


@dataclasses.dataclass(frozen=True)
class BarkConfig(JsonConfig):
    """Sizes of all four networks, as in `config.json`."""

    model_type: ClassVar[str] = "bark"

    semantic_config: BarkSemanticConfig = BarkSemanticConfig()
    coarse_acoustics_config: BarkCoarseConfig = BarkCoarseConfig()
    fine_acoustics_config: BarkFineConfig = BarkFineConfig()
    codec_config: EncodecConfig = EncodecConfig()
    initializer_range: float = 0.02

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds the config from the content of config.json. Raises ConfigError for a value that cannot work."""
        return super().from_dict(_with_parts(values, cls._parts))

    @classmethod
    def from_sub_model_configs(
        cls,
        semantic_config: BarkSemanticConfig,
        coarse_acoustics_config: BarkCoarseConfig,
        fine_acoustics_config: BarkFineConfig,
        codec_config: EncodecConfig,
        **others: Any,
    ) -> Self:
        """Builds the config from those of its networks; `others` is initializer_range."""
        return cls(semantic_config, coarse_acoustics_config, fine_acoustics_config, codec_config, **others)

    @classmethod
    def small(cls) -> Self:
        """The sizes of suno/bark-small: 389.6 M parameters without the codec."""
        return cls._sized(num_layers=12, num_heads=12, hidden_size=768)

    @classmethod
    def large(cls) -> Self:
        """The sizes of suno/bark: 1,085.7 M parameters without the codec."""
        return cls._sized(num_layers=24, num_heads=16, hidden_size=1024)

    @classmethod
    def _sized(cls, **sizes: int) -> Self:
        return cls(
            # 129,600: BERT's 119,547 ids from 10,048 on, the pad 129,595, three unused ids, and the infer token
            # 129,599. 12,096: 10,000 semantic tokens and 2 * 1,024 codes, then the pad 12,048, the infer token 12,050
            # and unused ids. 1,056: 1,024 codes, the pad 1,024, and 31 unused ids.
            semantic_config=BarkSemanticConfig(input_vocab_size=129_600, bias=False, **sizes),
            coarse_acoustics_config=BarkCoarseConfig(
                input_vocab_size=12_096, output_vocab_size=12_096, bias=False, **sizes
            ),
            fine_acoustics_config=BarkFineConfig(input_vocab_size=1056, output_vocab_size=1056, bias=False, **sizes),
        )

    _parts: ClassVar[Mapping[str, type[JsonConfig]]] = {
        "semantic_config": BarkSemanticConfig,
        "coarse_acoustics_config": BarkCoarseConfig,
        "fine_acoustics_config": BarkFineConfig,
        "codec_config": EncodecConfig,
    }


@dataclasses.dataclass(frozen=True)
class SamplingConfig(JsonConfig):
    """Sampling settings of a stage: greedy (the most likely token), or a draw after temperature, top_k and top_p.

    They are applied in this order. None switches one off; do_sample=False ignores all of them.
    """

    model_type: ClassVar[str] = "sampling"
    file_name: ClassVar[str] = GENERATION_CONFIG_FILE

    do_sample: bool = False
    temperature: float | None = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def check(self) -> None:
        """Raises ConfigError for a temperature, top_k or top_p out of range."""
        require(self, self.temperature is None or self.temperature > 0, "temperature", "a positive number or null")
        # transformers writes 0 for "no top_k"
        require(
            self, self.top_k is None or 0 <= self.top_k <= MAX_TOP_K, "top_k", "a count of tokens, 0 or null for all"
        )
        require(self, self.top_p is None or 0 < self.top_p <= 1, "top_p", "a probability in (0, 1] or null")


@dataclasses.dataclass(frozen=True)
class BarkSemanticGenerationConfig(SamplingConfig):
    """Token ids and settings of the semantic stage. semantic_rate_hz is in semantic tokens a second."""

    model_type: ClassVar[str] = "semantic"

    eos_token_id: int = 10_000
    max_new_tokens: int = 768
    min_eos_p: float | None = None
    text_encoding_offset: int = 10_048
    text_pad_token: int = 129_595
    semantic_infer_token: int = 129_599
    semantic_vocab_size: int = 10_000
    max_input_semantic_length: int = 256
    semantic_rate_hz: float = 49.9

    @property
    def semantic_pad_token(self) -> int:
        """The pad token, which is the end token, whatever the file says (transformers does the same)."""
        return self.eos_token_id

    def check(self) -> None:
        """Raises ConfigError for a token id, count or rate that cannot work."""
        super().check()
        for field in ("semantic_vocab_size", "max_input_semantic_length", "max_new_tokens"):
            _require_between(self, field, 1, MAX_VOCABULARY)
        for field in ("eos_token_id", "text_encoding_offset", "text_pad_token", "semantic_infer_token"):
            _require_between(self, field, 0, MAX_VOCABULARY)
        _require_between(self, "semantic_rate_hz", 1 / MAX_RATE_HZ, MAX_RATE_HZ)
        require(self, self.min_eos_p is None or 0 < self.min_eos_p <= 1, "min_eos_p", "a probability in (0, 1] or null")
        self._check_end()

    def _check_end(self) -> None:
        """Raises ConfigError where the end token's id is below semantic_vocab_size, so would be a semantic token.

        The message names the field that is more likely wrong: semantic_vocab_size where eos_token_id is the default or
        the vocabulary reaches into the text tokens, else eos_token_id.
        """
        is_right = self.eos_token_id >= self.semantic_vocab_size
        is_usual_end = self.eos_token_id == type(self).eos_token_id
        if is_usual_end or self.semantic_vocab_size > self.text_encoding_offset:
            end = f"at most eos_token_id {self.eos_token_id}, which is the first id that is no semantic token"
            require(self, is_right, "semantic_vocab_size", end)
        require(self, is_right, "eos_token_id", f"an id past the {self.semantic_vocab_size} semantic tokens")


@dataclasses.dataclass(frozen=True)
class BarkCoarseGenerationConfig(SamplingConfig):
    """Token ids, windows and settings of the coarse stage. coarse_rate_hz is in frames a second.

    sliding_window_len is the number of tokens that a window generates; the other lengths are in tokens too.
    """

    model_type: ClassVar[str] = "coarse_acoustics"

    coarse_semantic_pad_token: int = 12_048
    coarse_infer_token: int = 12_050
    coarse_rate_hz: float = 75
    n_coarse_codebooks: int = 2
    max_coarse_input_length: int = 256
    max_coarse_history: int = 630
    sliding_window_len: int = 60

    def check(self) -> None:
        """Raises ConfigError for a token id, window or rate that cannot work."""
        super().check()
        for field in ("n_coarse_codebooks", "max_coarse_input_length", "max_coarse_history", "sliding_window_len"):
            _require_between(self, field, 1, MAX_POSITIONS)
        for field in ("coarse_semantic_pad_token", "coarse_infer_token"):
            _require_between(self, field, 0, MAX_VOCABULARY)
        _require_between(self, "coarse_rate_hz", 1 / MAX_RATE_HZ, MAX_RATE_HZ)
        require(
            self,
            self.sliding_window_len % self.n_coarse_codebooks == 0,
            "sliding_window_len",
            f"a multiple of n_coarse_codebooks {self.n_coarse_codebooks}, so that windows hold whole frames",
        )


@dataclasses.dataclass(frozen=True)
class BarkFineGenerationConfig(JsonConfig):
    """Windows of the fine stage, in frames, and its temperature.

    A temperature of null or 1.0 means the most likely code, not a draw: transformers' rule.
    """

    model_type: ClassVar[str] = "fine_acoustics"
    file_name: ClassVar[str] = GENERATION_CONFIG_FILE

    temperature: float | None = 1.0
    max_fine_history_length: int = 512
    max_fine_input_length: int = 1024
    n_fine_codebooks: int = 8

    def check(self) -> None:
        """Raises ConfigError for a temperature or a window that cannot work."""
        require(self, self.temperature is None or self.temperature > 0, "temperature", "a positive number or null")
        for field in ("max_fine_history_length", "max_fine_input_length", "n_fine_codebooks"):
            _require_between(self, field, 1, MAX_POSITIONS)
        require(
            self,
            self.max_fine_history_length < self.max_fine_input_length,
            "max_fine_history_length",
            f"fewer frames than max_fine_input_length {self.max_fine_input_length}, so that a window holds new ones",
        )


@dataclasses.dataclass(frozen=True)
class BarkGenerationConfig(JsonConfig):
    """Token ids and settings of all stages, as in `generation_config.json`.

    sample_rate is in Hz. sentences_per_prompt is the maximum number of sentences in a prompt, None for as many as fit;
    transformers has no such field, and no published Bark needs it.
    """

    model_type: ClassVar[str] = "bark"
    file_name: ClassVar[str] = GENERATION_CONFIG_FILE

    semantic_config: BarkSemanticGenerationConfig = BarkSemanticGenerationConfig()
    coarse_acoustics_config: BarkCoarseGenerationConfig = BarkCoarseGenerationConfig()
    fine_acoustics_config: BarkFineGenerationConfig = BarkFineGenerationConfig()
    sample_rate: int = 24_000
    codebook_size: int = 1024
    sentences_per_prompt: int | None = None

    def check(self) -> None:
        """Raises ConfigError for a rate or count that cannot work."""
        if self.sentences_per_prompt is not None:
            _require_between(self, "sentences_per_prompt", 1, MAX_POSITIONS)
        _require_between(self, "sample_rate", 1, 2**20)
        _require_between(self, "codebook_size", 2, MAX_VOCABULARY)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds the config from the content of generation_config.json.

        Raises:
          ConfigError: it is not that of a Bark, or has a value that cannot work.
        """
        if isinstance(values, Mapping) and "semantic_config" not in values:
            raise ConfigError(
                "generation_config.json has no semantic_config: it is not that of a Bark. "
                "Copy the file from suno/bark, or write the defaults: save_json(BarkGenerationConfig(), path)."
            )
        return super().from_dict(_with_parts(values, cls._parts))

    @classmethod
    def from_sub_model_configs(
        cls,
        semantic_config: BarkSemanticGenerationConfig,
        coarse_acoustics_config: BarkCoarseGenerationConfig,
        fine_acoustics_config: BarkFineGenerationConfig,
        **others: Any,
    ) -> Self:
        """Builds the config from those of its stages; `others` are sample_rate, codebook_size, sentences_per_prompt."""
        return cls(semantic_config, coarse_acoustics_config, fine_acoustics_config, **others)

    def to_dict(self) -> dict[str, Any]:
        """The config as transformers writes it; sentences_per_prompt, which transformers lacks, only if set."""
        values = super().to_dict()
        if self.sentences_per_prompt is None:
            del values["sentences_per_prompt"]
        return values

    @classmethod
    def suno(cls) -> Self:
        """The settings of Suno's own code: temperature 0.7 (fine 0.5), and min_eos_p: stops where p(end) >= 0.2."""
        return cls(
            semantic_config=BarkSemanticGenerationConfig(do_sample=True, temperature=0.7, min_eos_p=0.2),
            coarse_acoustics_config=BarkCoarseGenerationConfig(do_sample=True, temperature=0.7),
            fine_acoustics_config=BarkFineGenerationConfig(temperature=0.5),
        )

    _parts: ClassVar[Mapping[str, type[JsonConfig]]] = {
        "semantic_config": BarkSemanticGenerationConfig,
        "coarse_acoustics_config": BarkCoarseGenerationConfig,
        "fine_acoustics_config": BarkFineGenerationConfig,
    }


def _with_parts(values: Mapping[str, Any], parts: Mapping[str, type[JsonConfig]]) -> Mapping[str, Any]:
    """Replaces each nested object by its config; a missing or null one becomes its defaults."""
    if not isinstance(values, Mapping):
        return values
    built = {name: part.from_dict(_or_empty(values.get(name))) for name, part in parts.items()}
    return {**values, **built}


def _or_empty(value: Any) -> Any:
    return {} if value is None else value


def read_json(path: str | os.PathLike[str]) -> Any:
    """Parses a JSON file of at most MAX_JSON_BYTES. Raises ConfigError or ModelNotFoundError with the path."""
    path = Path(path)
    if not path.is_file():
        raise ModelNotFoundError(f"{path} does not exist; a model folder holds {CONFIG_FILE}, {GENERATION_CONFIG_FILE}")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ConfigError(f"{path} has {path.stat().st_size} bytes, more than the {MAX_JSON_BYTES} of any config")
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=without_duplicates)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, or an integer of 4,301 digits
        raise ConfigError(f"{path} is not JSON: {error}") from error


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes a dict of a JSON object's pairs (`object_pairs_hook` of `json.loads`).

    Raises ValueError for a duplicate key: of two programs that read the file, one takes its first value, one its last.
    """
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"the key {quoted(name)} is there twice")
        values[name] = value
    return values


def read_config(path: str | os.PathLike[str], config_class: type[JsonConfig]) -> Any:
    """Reads a config from its JSON file. Raises ConfigError or ModelNotFoundError with the path."""
    return parse_config(path, config_class, read_json(path))


def parse_config(where: Any, config_class: type[JsonConfig], values: Any) -> Any:
    """Builds a config from the JSON values found in `where`, a path for messages.

    Raises:
      ConfigError: a value cannot work, or the config has `auto_map`, which asks to run code from the model's folder.
    """
    if isinstance(values, dict) and "auto_map" in values:
        raise ConfigError(f"{where} asks for code of its own (auto_map), which is not run here; do not use this model")
    try:
        return config_class.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def save_json(config: JsonConfig, path: str | os.PathLike[str]) -> None:
    """Writes the config's JSON file."""
    Path(path).write_text(config.to_json_string(), encoding="utf-8")

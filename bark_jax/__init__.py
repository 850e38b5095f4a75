"""Bark, Suno's text-to-audio system, in JAX and Flax.

    import bark_jax

    bark = bark_jax.Bark.from_pretrained("suno/bark-small")
    bark.generate("Hello, my dog is cute [laughs]", voice="v2/en_speaker_6", seed=0).save("hello.wav")

`Bark` is the high-level API. `BarkModel` and `BarkProcessor` have the API of transformers. Settings of generation are
in `GenerateSettings`; errors derive from `BarkError` and warnings from `BarkWarning`.

Public names are imported when they are first used, so `import bark_jax` alone loads neither JAX nor Flax.
"""

from typing import TYPE_CHECKING

import bark_jax._system.forks  # noqa: F401, registers a hook of os.fork, so it cannot be lazy
from bark_jax._system.lazy import lazy_names

__version__ = "0.1.0"

_MODULE_BY_NAME = {
    "AttentionNameWarning": "networks.attention",
    "Bark": "bark",
    "BarkCausalModel": "networks.causal",
    "BarkCoarseConfig": "config",
    "BarkCoarseGenerationConfig": "config",
    "BarkCoarseModel": "stage_models",
    "BarkConfig": "config",
    "BarkError": "errors",
    "BarkFineConfig": "config",
    "BarkFineGenerationConfig": "config",
    "BarkFineModel": "stage_models",
    "BarkGenerationConfig": "config",
    "BarkModel": "model",
    "BarkProcessor": "text.processor",
    "BarkSemanticConfig": "config",
    "BarkSemanticGenerationConfig": "config",
    "BarkSemanticModel": "stage_models",
    "BarkWarning": "errors",
    "CheckpointError": "errors",
    "Clip": "audio.clip",
    "ConfigError": "errors",
    "EmptyClipWarning": "audio.clip",
    "EncodecConfig": "config",
    "EncodecModel": "stage_models",
    "GenerateSettings": "generation.settings",
    "InputError": "errors",
    "LongClip": "text.sentences",
    "ModelNotFoundError": "errors",
    "OddVoiceWarning": "voices.voice",
    "UnsupportedError": "errors",
    "Voice": "voices.voice",
    "VoiceError": "errors",
    "VoiceNotFoundError": "errors",
    "export": "stablehlo.export",
    "tensor_parallel": "networks.tensor_parallel",
}

if TYPE_CHECKING:
    from bark_jax.audio.clip import Clip as Clip
    from bark_jax.audio.clip import EmptyClipWarning as EmptyClipWarning
    from bark_jax.bark import Bark as Bark
    from bark_jax.config import BarkCoarseConfig as BarkCoarseConfig
    from bark_jax.config import BarkCoarseGenerationConfig as BarkCoarseGenerationConfig
    from bark_jax.config import BarkConfig as BarkConfig
    from bark_jax.config import BarkFineConfig as BarkFineConfig
    from bark_jax.config import BarkFineGenerationConfig as BarkFineGenerationConfig
    from bark_jax.config import BarkGenerationConfig as BarkGenerationConfig
    from bark_jax.config import BarkSemanticConfig as BarkSemanticConfig
    from bark_jax.config import BarkSemanticGenerationConfig as BarkSemanticGenerationConfig
    from bark_jax.config import EncodecConfig as EncodecConfig
    from bark_jax.errors import BarkError as BarkError
    from bark_jax.errors import BarkWarning as BarkWarning
    from bark_jax.errors import CheckpointError as CheckpointError
    from bark_jax.errors import ConfigError as ConfigError
    from bark_jax.errors import InputError as InputError
    from bark_jax.errors import ModelNotFoundError as ModelNotFoundError
    from bark_jax.errors import UnsupportedError as UnsupportedError
    from bark_jax.errors import VoiceError as VoiceError
    from bark_jax.errors import VoiceNotFoundError as VoiceNotFoundError
    from bark_jax.generation.settings import GenerateSettings as GenerateSettings
    from bark_jax.model import BarkModel as BarkModel
    from bark_jax.networks.attention import AttentionNameWarning as AttentionNameWarning
    from bark_jax.networks.causal import BarkCausalModel as BarkCausalModel
    from bark_jax.networks.tensor_parallel import tensor_parallel as tensor_parallel
    from bark_jax.stablehlo.export import export as export
    from bark_jax.stage_models import BarkCoarseModel as BarkCoarseModel
    from bark_jax.stage_models import BarkFineModel as BarkFineModel
    from bark_jax.stage_models import BarkSemanticModel as BarkSemanticModel
    from bark_jax.stage_models import EncodecModel as EncodecModel
    from bark_jax.text.processor import BarkProcessor as BarkProcessor
    from bark_jax.text.sentences import LongClip as LongClip
    from bark_jax.voices.voice import OddVoiceWarning as OddVoiceWarning
    from bark_jax.voices.voice import Voice as Voice
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, _MODULE_BY_NAME)

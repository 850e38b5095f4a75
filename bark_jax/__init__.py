"""Bark, Suno's text-to-audio system, in JAX and Flax.

    import bark_jax

    bark = bark_jax.Bark.from_pretrained("suno/bark-small")
    bark.generate("Hello, my dog is cute [laughs]", voice="v2/en_speaker_6", seed=0).save("hello.wav")

The public names below are imported when they are first used: `import bark_jax` loads neither JAX nor Flax.
"""

import bark_jax._system.forks  # noqa: F401, watches forks from now on
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
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _MODULE_BY_NAME)

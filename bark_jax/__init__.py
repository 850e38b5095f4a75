"""Bark, Suno's text-to-audio system, in JAX and Flax.

    import bark_jax

    bark = bark_jax.Bark.from_pretrained("suno/bark-small")
    bark.generate("Hello, my dog is cute [laughs]", voice="v2/en_speaker_6", seed=0).save("hello.wav")

The public names below are imported when they are first used: `import bark_jax` loads neither JAX nor Flax.
"""

import bark_jax.forks  # noqa: F401, watches forks from now on
from bark_jax.lazy import lazy_names

__version__ = "0.1.0"

_MODULE_BY_NAME = {
    "Bark": "pipeline",
    "BarkCausalModel": "models.gpt",
    "BarkCoarseConfig": "config",
    "BarkCoarseModel": "models.gpt",
    "BarkConfig": "config",
    "BarkError": "errors",
    "BarkFineConfig": "config",
    "BarkFineModel": "models.fine_gpt",
    "BarkGenerationConfig": "config",
    "BarkModel": "model",
    "BarkProcessor": "processor",
    "BarkSemanticConfig": "config",
    "BarkSemanticModel": "models.gpt",
    "BarkWarning": "errors",
    "CheckpointError": "errors",
    "Clip": "clip",
    "ConfigError": "errors",
    "EmptyClipWarning": "clip",
    "EncodecConfig": "config",
    "EncodecModel": "models.codec.encodec",
    "InputError": "errors",
    "LongClip": "long_text",
    "ModelNotFoundError": "errors",
    "UnsupportedError": "errors",
    "Voice": "voices",
    "VoiceError": "errors",
    "VoiceNotFoundError": "errors",
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _MODULE_BY_NAME)

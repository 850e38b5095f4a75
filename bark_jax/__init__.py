"""Bark, Suno's text-to-audio system, in JAX and Flax.

    import bark_jax

    bark = bark_jax.Bark.from_pretrained("suno/bark-small")
    bark.generate("Hello, my dog is cute [laughs]", voice="v2/en_speaker_6", seed=0).save("hello.wav")

The public names below are imported when they are first used: `import bark_jax` loads neither JAX nor Flax.
"""

import importlib
from typing import Any

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

__all__ = sorted(_MODULE_BY_NAME)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_BY_NAME:
        raise AttributeError(f"module 'bark_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bark_jax.{_MODULE_BY_NAME[name]}"), name)


def __dir__() -> list[str]:
    return __all__

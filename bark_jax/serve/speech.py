"""The body of POST /v1/audio/speech, checked: OpenAI's fields, and this project's settings under their own names."""

import dataclasses
import secrets
from collections.abc import Mapping
from typing import Any, Literal

from bark_jax._system.strict_json import read_strict
from bark_jax.errors import InputError, VoiceError, quoted
from bark_jax.serve.errors import ApiError
from bark_jax.serve.formats import MEDIA_TYPES
from bark_jax.serve.voices import voice_from_json
from bark_jax.voices.voice import Voice

# Names that OpenAI's clients have for a model; they stand for the one that is served.
MODEL_ALIASES = ("tts-1", "tts-1-hd")
STREAM_FORMATS = ("audio", "sse")
MAX_SEED = 2**64 - 1


@dataclasses.dataclass(frozen=True)
class SpeechRequest:
    """A text to speak, and how."""

    text: str
    voice: str | Voice | None  # a name that the model has, or the client's own; None for the server's default
    seed: int
    settings: Mapping[str, Any]  # of `generate`, as given; checked with the text
    response_format: str  # of MEDIA_TYPES
    stream_format: Literal["audio", "sse"] | None  # None for a complete file
    wants_voice: bool = False  # end a stream of events with the clip's voice


def parse_speech(body: bytes, *, model: str, voices: frozenset[str], max_characters: int) -> SpeechRequest:
    """Parses and checks the body, except for the values of settings and what the tokenizer says of the text.

    Args:
      model: the name of the model that is served.
      voices: the names that `voice` may have.
      max_characters: limit of the text.

    Raises:
      ApiError: 400 with the field that is wrong; 404 for another model.
    """
    fields = _fields(body)
    _check_model(fields.pop("model", None), model)
    text = _text(fields.pop("input", None), max_characters)
    voice = _voice(fields.pop("voice", None), voices)
    response_format = _response_format(fields.pop("response_format", None))
    stream_format = _choice("stream_format", fields.pop("stream_format", None), STREAM_FORMATS)
    wants_voice = _include(fields.pop("include", None), stream_format)
    _check_speed(fields.pop("speed", None))
    if fields.pop("instructions", None):
        raise _wrong("instructions", "instructions are not supported: Bark takes its cues from the text, [laughs]")
    seed = _seed(fields.pop("seed", None))
    return SpeechRequest(text, voice, seed, fields, response_format, stream_format, wants_voice)


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = read_strict(body)
    except InputError as error:
        raise _wrong(None, f"the body is {error}; expected a JSON object") from error
    if not isinstance(fields, dict):
        raise _wrong(None, f"the body is {quoted(fields)}, expected a JSON object")
    return fields


def _check_model(model: Any, served: str) -> None:
    if model is None:
        raise _wrong("model", f"model is missing, expected {served!r}")
    if model != served and model not in MODEL_ALIASES:
        message = f"the model {quoted(model)} is not served here, expected {served!r}"
        raise ApiError(404, message, param="model", code="model_not_found")


def _text(text: Any, max_characters: int) -> str:
    if not isinstance(text, str):
        raise _wrong("input", "input is missing" if text is None else f"input is {quoted(text)}, expected a string")
    if len(text) > max_characters:
        raise _wrong("input", f"input has {len(text):,} characters, expected at most {max_characters:,}")
    return text


def _voice(voice: Any, voices: frozenset[str]) -> str | Voice | None:
    if isinstance(voice, dict):
        if "npz" in voice:
            try:
                return voice_from_json(voice["npz"])
            except VoiceError as error:
                raise _wrong("voice", str(error)) from error
        voice = voice.get("id", "")  # OpenAI's form of a custom voice: {"id": "voice_1234"}
    if voice is None:
        return None
    # Looked up here, and never handed on otherwise: elsewhere in the package a voice may also be a file's path.
    if not isinstance(voice, str) or voice not in voices:
        raise _wrong("voice", f"no voice is called {quoted(voice)}; GET /v1/audio/voices lists them")
    return voice


def _include(include: Any, stream_format: str | None) -> bool:
    """Returns whether the answer shall include the clip's voice."""
    if include is None or include == []:
        return False
    if include != ["voice"]:
        raise _wrong("include", f'include is {quoted(include)}, expected ["voice"]')
    if stream_format != "sse":
        raise _wrong("include", "a voice comes with the last event of a stream; it needs stream_format sse")
    return True


def _response_format(name: Any) -> str:
    if name == "aac":
        raise _wrong("response_format", f"aac is not supported, expected one of {', '.join(MEDIA_TYPES)}")
    return _choice("response_format", name, tuple(MEDIA_TYPES)) or "mp3"


def _choice(param: str, value: Any, choices: tuple[str, ...]) -> Any:
    if value is not None and (not isinstance(value, str) or value not in choices):
        raise _wrong(param, f"{param} is {quoted(value)}, expected one of {', '.join(choices)}")
    return value


def _check_speed(speed: Any) -> None:
    if speed is not None and (isinstance(speed, bool) or speed != 1):
        raise _wrong("speed", f"speed is {quoted(speed)}, and only 1.0 is supported: Bark has no control of its speed")


def _seed(seed: Any) -> int:
    if seed is None:
        # 32 bits, which JavaScript reads exactly.
        return secrets.randbits(32)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
        raise _wrong("seed", f"seed is {quoted(seed)}, expected an integer from 0 to 2**64 - 1")
    return seed


def _wrong(param: str | None, message: str) -> ApiError:
    return ApiError(400, message, param=param)

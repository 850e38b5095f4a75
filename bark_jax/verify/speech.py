"""Clips of fixed texts: one for each language of the model, and sentences for a speech recogniser."""

import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bark_jax.audio.clip import Clip
from bark_jax.bark import Bark
from bark_jax.errors import BarkError, UnsupportedError, VoiceNotFoundError

CLIP_SECONDS = 6.0
SEED = 0
TEXTS = {
    "en": "The weather is beautiful today.",
    "de": "Das Wetter ist heute sehr schön.",
    "es": "Hoy hace muy buen tiempo.",
    "fr": "Il fait très beau aujourd'hui.",
    "hi": "आज मौसम बहुत अच्छा है।",
    "it": "Oggi il tempo è bellissimo.",
    "ja": "今日はとても良い天気です。",
    "ko": "오늘 날씨가 정말 좋습니다.",
    "pl": "Dzisiaj jest piękna pogoda.",
    "pt": "Hoje o tempo está muito bom.",
    "ru": "Сегодня прекрасная погода.",
    "tr": "Bugün hava çok güzel.",
    "zh": "今天天气非常好。",
}
# Of the words that the built-in model knows, so that every model can say them.
SENTENCES = (
    "the weather is sunny today.",
    "please open the window.",
    "it will be cold on monday morning.",
    "i would like some coffee, please.",
    "thank you very much, my good friend.",
    "we will meet you at the station on friday.",
    "there are three letters on the table.",
    "i think that the doctor is tired tonight.",
)


def languages_of(bark: Bark) -> list[str]:
    """Returns the codes of TEXTS that the model has voices of; English alone if its voices name no language."""
    return [code for code in TEXTS if bark.voices(code)] or ["en"]


def voice_of(bark: Bark, language: str) -> str | None:
    """Returns the name of the voice that speaks a language's clip: the first of version 2, or the first; None if none.

    A model whose voices name no language speaks without a voice.
    """
    names = bark.voices(language)
    return next((name for name in names if name.startswith("v2/")), next(iter(names), None))


def speak_languages(bark: Bark, folder: Path, *, is_quick: bool) -> Iterator[dict[str, Any]]:
    """Speaks the fixed text of each language and writes its audio and its figure into `folder`.

    Yields:
      What became of a language, as JSON values; a language that cannot be spoken has a "problem".
    """
    for language in languages_of(bark)[: 1 if is_quick else None]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = _speak(bark, language, folder)
            except BarkError as error:
                found = {"problem": f"{type(error).__name__}: {error}"}
        notes = sorted({str(each.message) for each in caught})
        yield {"language": language, "text": TEXTS[language], **found, **({"warnings": notes} if notes else {})}


def _speak(bark: Bark, language: str, folder: Path) -> dict[str, Any]:
    clip, about = _generate(bark, TEXTS[language], language)
    found = {**about, "seconds": round(clip.duration_s, 2), "tokens": token_hashes(clip)}
    return found | save_clip(clip, folder, language)


def _generate(bark: Bark, text: str, language: str) -> tuple[Clip, dict[str, Any]]:
    """Returns a clip of the text, and its voice as JSON values."""
    voice, limits = voice_of(bark, language), {"seed": SEED, "semantic_max_seconds": _seconds(bark)}
    try:
        return bark.generate(text, voice=voice, **limits), {"voice": voice}
    except VoiceNotFoundError as error:  # a published voice that is not in the cache, and the Hub cannot be reached
        return bark.generate(text, **limits), {"voice": None, "voice_problem": str(error)}


def _seconds(bark: Bark) -> float:
    spaces = bark.model.spaces
    return min(CLIP_SECONDS, int(spaces.max_semantic / spaces.semantic_rate))


def save_clip(clip: Clip, folder: Path, name: str) -> dict[str, str]:
    """Writes NAME.wav and NAME.png. Returns their names, or why there is no figure."""
    folder.mkdir(exist_ok=True)
    clip.save(folder / f"{name}.wav")
    try:
        clip.plot(folder / f"{name}.png")
    except UnsupportedError as error:
        return {"audio": f"{name}.wav", "figure_problem": str(error)}
    return {"audio": f"{name}.wav", "figure": f"{name}.png"}


def token_hashes(clip: Clip) -> dict[str, str]:
    """Returns the SHA-256 of each stage's tokens as little-endian int32, codes codebook by codebook."""
    return {
        stage: hashlib.sha256(np.ascontiguousarray(tokens, "<i4").tobytes()).hexdigest()
        for stage, tokens in (("semantic", clip.semantic), ("coarse", clip.coarse), ("fine", clip.fine))
    }


def measure_words(bark: Bark, folder: Path, *, is_quick: bool) -> dict[str, Any]:
    """Speaks SENTENCES, writes their audio into `folder`, and scores what a recogniser hears.

    Returns:
      As JSON values the share of wrong words, the same of a control (scored against another sentence), and the texts.

    Raises:
      UnsupportedError: the recogniser is not installed.
    """
    listen = import_listen()
    texts = list(SENTENCES[: 2 if is_quick else None])
    # One by one, as the clips: they run the same programs.
    spoken = [_generate(bark, text, "en") for text in texts]
    clips, about = [clip for clip, _ in spoken], spoken[0][1]
    folder.mkdir(exist_ok=True)
    for n, clip in enumerate(clips):
        clip.save(folder / f"sentence_{n}.wav")
    hearing = listen("sentences", texts, [_mono(clip.samples) for clip in clips], bark.sample_rate)
    return {
        **about,
        "word_error": hearing.word_error,
        "word_error_of_other_text": hearing.other_text,
        "sentences": [
            {"text": text, "heard": heard, "audio": f"sentence_{n}.wav"}
            for n, (text, heard) in enumerate(zip(texts, hearing.heard, strict=True))
        ],
    }


def _mono(samples: np.ndarray) -> np.ndarray:
    """Averages channels: audio samples [A] or [A, channels] to [A]."""
    return samples if samples.ndim == 1 else samples.mean(axis=1)


def import_listen() -> Any:
    """Imports `listen` of the recipe. Raises UnsupportedError if PocketSphinx or soxr is not installed."""
    try:
        import pocketsphinx  # noqa: F401, which `listen` imports on use

        from bark_jax.training.recipes.tiny_voice.listen import listen
    except ImportError as error:
        raise UnsupportedError(f"no recogniser is installed ({error}): pip install 'bark-jax[listen]'") from error
    return listen

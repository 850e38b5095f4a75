"""The README's Python with the expected types; mypy reads it in `test_types.py`. It is never run."""

from typing import Unpack, assert_type

import jax
import numpy as np
from numpy.typing import NDArray

import bark_jax

bark = bark_jax.Bark.from_pretrained("suno/bark-small")  # a Hub id, a folder, or "tiny"
clip = bark.generate("Hello, my dog is cute [laughs]", voice="v2/en_speaker_6", seed=0)
clip.save("hello.wav")  # wav, flac, ogg, opus or mp3, by the ending; a notebook plays the clip itself
print(clip.duration_s, clip.semantic.shape, clip.fine.shape, clip.mean_logprob, clip.stats)
assert_type(bark, bark_jax.Bark)
assert_type(clip, bark_jax.Clip)
assert_type(clip.samples, NDArray[np.float32])
assert_type(clip.semantic, NDArray[np.int32])
assert_type(clip.duration_s, float)
assert_type(clip.mean_logprob, float)
assert_type(clip.stats, dict[str, float])

clips = bark.generate(["Hi.", "Guten Tag."], voice=["v2/en_speaker_6", "v2/de_speaker_3"], seed=[1, 2])
assert_type(clips, list[bark_jax.Clip])
assert_type(bark.generate("Twice.", num_return_sequences=2), list[bark_jax.Clip])
assert_type(bark.generate(("One.", "Two."), num_return_sequences=2, best_of=3), list[list[bark_jax.Clip]])

clip.as_voice().save("found.npz")
bark.generate("The same speaker again.", voice="found.npz", seed=3)
assert_type(clip.as_voice(), bark_jax.Voice)

bark.generate("Quiet and short.", seed=0, temperature=0.6, coarse_top_k=50, semantic_max_seconds=4)
best = bark.generate("Say it well.", seed=0, best_of=4)  # of four candidates the likeliest
assert_type(best, bark_jax.Clip)


def speak_quietly(text: str, **settings: Unpack[bark_jax.GenerateSettings]) -> bark_jax.Clip:
    return bark.generate(text, **settings)


quiet: bark_jax.GenerateSettings = {"temperature": [0.6, 0.7], "coarse_top_k": None, "do_sample": True}
bark.generate(["One.", "Two."], **quiet)
bark.generate("Misspelt.", temprature=0.6)  # type: ignore[call-overload]
bark.generate("No number.", temperature="0.6")  # type: ignore[arg-type]
bark_jax.Brak  # type: ignore[attr-defined]  # noqa: B018

story = bark.generate_long("It was a dark night. The wind howled! Who was there?", voice="v2/en_speaker_6", seed=0)
story.save("story.wav")
dialogue = bark.generate_long([("v2/en_speaker_6", "Guten Tag?"), ("v2/de_speaker_3", "Good day!")], seed=0)
assert_type(story, bark_jax.LongClip)
assert_type(story.sentences[0].clip, bark_jax.Clip)
assert_type(dialogue, bark_jax.LongClip)
bark.generate_long("Misspelt.", temprature=0.6)  # type: ignore[call-arg]

for part in bark.stream("A long paragraph. It has two sentences.", voice="v2/en_speaker_6", seed=0):
    print(part.samples.shape)
    assert_type(part.samples, NDArray[np.float32])
    assert_type(part.start_s, float)

tokens = bark.text_to_semantic(["Hi.", "Good morning."], seed=[1, 2])
codes = bark.semantic_to_codes(tokens, seed=[1, 2], devices="all")
recordings = bark.codes_to_audio(codes)
data = recordings[0].to_bytes("mp3")
assert_type(tokens, list[NDArray[np.int32]])
assert_type(bark.text_to_semantic("Hi.", temperature=0.6), NDArray[np.int32])
assert_type(codes, list[NDArray[np.int32]])
assert_type(recordings[0].samples, NDArray[np.float32])
assert_type(data, bytes)
bark.text_to_semantic("Misspelt.", temprature=0.6)  # type: ignore[call-overload]

logits = jax.jit(lambda model, ids: model.semantic(ids))(bark.model, tokens[0][None])
other = bark.model.replace(semantic=jax.device_put(bark.model.semantic, jax.local_devices()[0]))
assert_type(other, bark_jax.BarkModel)

bark = bark_jax.Bark.from_pretrained("suno/bark-small", dtype="int8")  # 4 to 5 times transformers' speed in float32

processor = bark_jax.BarkProcessor.from_pretrained("suno/bark-small")
model = bark_jax.BarkModel.from_pretrained("suno/bark-small", torch_dtype="bfloat16")
inputs = processor(["Hello", "Bonjour"], voice_preset=["v2/en_speaker_6", "v2/fr_speaker_1"])
audio, lengths = model.generate(**inputs, seed=[0, 1], semantic_temperature=0.7, return_output_lengths=True)
assert_type(processor, bark_jax.BarkProcessor)
assert_type(model, bark_jax.BarkModel)
assert_type(audio, jax.Array)
assert_type(lengths, list[int])
assert_type(model.generate(inputs["input_ids"]), jax.Array)
assert_type(model.codec_decode(np.zeros((1, 8, 75), np.int32)), jax.Array)
assert_type(model.codec_decode(np.zeros((1, 8, 75), np.int32), [75]), list[jax.Array])

config = model.generation_config
semantic_output = model.semantic.generate(**inputs, semantic_generation_config=config.semantic_config, seed=[0, 1])
assert_type(config, bark_jax.BarkGenerationConfig)
assert_type(model.semantic, bark_jax.BarkSemanticModel)
assert_type(semantic_output, jax.Array)
assert_type(model.coarse_acoustics.generate(semantic_output), jax.Array)
coarse_output = model.coarse_acoustics.generate(semantic_output, return_output_lengths=True)
assert_type(coarse_output, tuple[jax.Array, jax.Array])

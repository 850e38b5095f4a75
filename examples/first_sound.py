"""Speaks a sentence with the built-in voice, twice: by its first speaker, and by the one called rms.

    python examples/first_sound.py OUT

writes OUT/hello.wav and OUT/thanks.flac. Nothing is downloaded.
"""

import sys
from pathlib import Path

import bark_jax

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)

bark = bark_jax.Bark.from_pretrained("tiny")
hello = bark.generate("The weather is beautiful today.", seed=0)
thanks = bark.generate("Thank you very much, my good friend.", voice="rms", seed=0)

hello.save(out / "hello.wav")
thanks.save(out / "thanks.flac")
for clip in (hello, thanks):
    print(f"{clip.text}  {clip.duration_s:.2f} s, {len(clip.semantic)} semantic tokens, codes {clip.fine.shape}")

"""Changes tokens between the stages: the same words slower, and the start of one sentence with the end of another.

    python examples/change_tokens_between_stages.py OUT

writes OUT/plain.wav, OUT/slower.wav, OUT/spliced.wav, OUT/coarse_only.wav and all tokens as OUT/tokens.npz. In the
built-in voice a semantic token is a state of a phone, 50 a second, so that repeating tokens stretches the phones.
"""

import sys
from pathlib import Path

import numpy as np

import bark_jax

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
bark = bark_jax.Bark.from_pretrained("tiny")

texts = ["We will meet you at the station on Monday.", "The number is four two seven."]
meet, number = bark.text_to_semantic(texts, seed=[1, 2])

is_repeated = np.arange(len(number)) % 2 == 0  # every second token once more: 1.5 times as long
slower = np.repeat(number, np.where(is_repeated, 2, 1))
spliced = np.concatenate([meet[: len(meet) // 2], number[len(number) // 2 :]])

rows = {"plain": number, "slower": slower, "spliced": spliced}
codes = dict(zip(rows, bark.semantic_to_codes(list(rows.values()), seed=2), strict=True))

# Codes can be changed too. Here each of the six fine codebooks keeps its first code: the words stay, the detail goes.
coarse_only = codes["plain"].copy()
coarse_only[2:] = coarse_only[2:, :1]
codes["coarse_only"] = coarse_only

for name, recording in zip(codes, bark.codes_to_audio(list(codes.values())), strict=True):
    recording.save(out / f"{name}.wav")
    print(f"{name}: {recording.duration_s:.2f} s")
np.savez(out / "tokens.npz", **rows, **{f"{name}_codes": array for name, array in codes.items()})

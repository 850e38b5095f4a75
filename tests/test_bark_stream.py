"""Bark.stream: audio of a text sentence by sentence and part by part."""

import numpy as np
import pytest

from bark_jax import Bark
from bark_jax.errors import InputError

TEXT = "The first sentence goes here and on and on. The second one follows it!"
SETTINGS = dict(max_new_tokens=60, allow_early_stop=False)


@pytest.fixture(scope="module")
def bark():
    return Bark.from_pretrained("tiny")


def test_parts_follow_each_other_sentence_by_sentence(bark):
    parts = list(bark.stream(TEXT, seed=1, silence_s=0.5, **SETTINGS))
    long = bark.generate_long(TEXT, seed=1, silence_s=0.5, **SETTINGS)
    sentences = list(dict.fromkeys(part.text for part in parts))
    assert sentences == [sentence.text for sentence in long.sentences] and len(sentences) == 2
    samples = np.concatenate([part.samples for part in parts])
    assert len(samples) == len(long.samples) and np.isfinite(samples).all()
    ends = np.cumsum([0, *(len(part.samples) for part in parts)]) / bark.sample_rate
    assert [part.start_s for part in parts] == pytest.approx(ends[:-1].tolist())
    assert len(parts) > 2


def test_the_first_audio_comes_before_the_coarse_stage_has_ended(bark):
    stages = []
    stream = bark.stream(TEXT, seed=1, on_stage=stages.append, **SETTINGS)
    assert len(next(stream).samples)
    seen = len(stages)
    list(stream)
    assert "coarse" in stages[seen:]


def test_what_cannot_work_is_refused_before_the_first_part(bark):
    with pytest.raises(InputError, match="first_windows is 0"):
        bark.stream(TEXT, first_windows=0)
    with pytest.raises(InputError, match="did you mean temperature"):
        bark.stream(TEXT, temprature=1)

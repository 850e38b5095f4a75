"""Long texts: splitting loses nothing and cuts no word, and sentences are joined to one recording."""

import dataclasses
import random
from fractions import Fraction

import numpy as np
import pytest
from corpus import CUES, JOINERS, ODDITIES, SYMBOLS, WORDS
from tokenizers import normalizers, pre_tokenizers

from bark_jax import Bark
from bark_jax.audio.clip import EmptyClipWarning
from bark_jax.errors import InputError, VoiceError, VoiceNotFoundError
from bark_jax.generation.rows import Utterance
from bark_jax.generation.sampling import key_data
from bark_jax.generation.seeds import SENTENCE, derive_keys, seed_of
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.text.sentences import prompt_budget, split_text
from bark_jax.voices.voice import Voice

NORMALIZER = normalizers.BertNormalizer(lowercase=False)
PRE_TOKENIZER = pre_tokenizers.BertPreTokenizer()
END = {"hi": "।", "ja": "。", "zh": "。"}
SHORT = dict(semantic_max_new_tokens=20, allow_early_stop=False)


def count_tokens(text):
    """About as many as BERT's tokenizer makes: one for four characters of a word, one for a Chinese character."""
    words = PRE_TOKENIZER.pre_tokenize_str(NORMALIZER.normalize_str(text))
    return sum(-(-len(word) // 4) for word, _ in words)


def bare(text):
    return "".join(text.split())


def make_text(language, n_words, seed=0):
    """Sentences of 3 to 40 words with commas and cues; without spaces where the language has none."""
    draw, words, text = random.Random(seed), WORDS[language].split(), []
    space = "" if language in ("ja", "zh") else " "
    while n_words > 0:
        length = min(n_words, draw.randint(3, 40))
        n_words -= length
        sentence = [
            draw.choice(words) + draw.choice(["", "", "", "", "、" if not space else ","]) for _ in range(length)
        ]
        if draw.random() < 0.2:
            sentence.append(" " + draw.choice(CUES))
        text.append(space.join(sentence) + draw.choice([END.get(language, "."), "!", "?", "...", "\n\n"]))
    return space.join(text)


@pytest.mark.parametrize(
    ("count", "rate", "longest", "n_text", "budget"),
    [
        (count_tokens, "49.9", 768, 256, range(40, 60)),  # Bark: 13 s of speech
        (len, "49.9", 768, 256, range(180, 240)),  # characters are spoken faster than words' pieces
        (len, "25", 127, 96, range(55, 75)),  # a third of the time, a third of the text
        (len, "25", 768, 96, [96]),  # never more than the prompt holds
        (len, "25", 1, 96, [1]),  # and never nothing
    ],
)
def test_the_budget_of_a_prompt_follows_from_the_model_and_its_tokenizer(count, rate, longest, n_text, budget):
    spaces = dataclasses.replace(TokenSpaces(), semantic_rate=Fraction(rate), max_semantic=longest, n_text=n_text)
    assert prompt_budget(count, spaces) in budget


@pytest.mark.parametrize("language", WORDS)
@pytest.mark.parametrize("max_tokens", [12, 43])
def test_a_thousand_words_lose_nothing(language, max_tokens):
    text = make_text(language, 1000)
    pieces = split_text(text, count_tokens, max_tokens, language)
    assert bare("".join(pieces)) == bare(text)
    assert max(map(count_tokens, pieces)) <= max_tokens
    if language not in ("ja", "zh"):
        assert " ".join(pieces).split() == text.split()
    if max_tokens == 43:  # neighbours that fit are together
        assert np.mean([count_tokens(piece) for piece in pieces]) > 0.5 * max_tokens


def test_random_text_loses_nothing_and_is_never_cut_inside_a_word():
    draw = random.Random(0)
    pool = [*CUES, *SYMBOLS, *ODDITIES, *JOINERS * 3, *".!?,;:—\"'()[]「」。、", "\u200b", "\r\n"]
    pool += [word for words in WORDS.values() for word in words.split()]
    for _ in range(500):
        text = "".join(draw.choice(pool) for _ in range(draw.randint(1, 150)))
        max_tokens = draw.randint(1, 30)
        pieces = split_text(text, count_tokens, max_tokens, draw.choice([*WORDS, "xx"]))
        assert bare("".join(pieces)) == bare(text)
        for piece in pieces:
            assert count_tokens(piece) <= max_tokens or not piece.isascii() or " " not in piece or "[" in piece, piece
        if text.isascii():
            assert " ".join(pieces).split() == text.split()


@pytest.mark.parametrize(
    ("text", "max_tokens", "pieces"),
    [
        ("One. Two. Three.", 4, ["One. Two.", "Three. "]),
        ("Mr. Smith met J. R. Ewing.  He left.", 13, ["Mr. Smith met J. R. Ewing.", "He left."]),
        ("J.\u00a0R. Ewing left.", 43, ["J. R. Ewing left."]),
        ("one two, one two three one", 4, ["one two,", "one two", "three one"]),
        ("one two three four five six", 3, ["one two", "three", "four five six"]),
        ("so then [clears throat] yes", 4, ["so then", "[clears throat]", "yes"]),
        ("今天天气很好，我們去吃飯吧", 8, ["今天天气很好，", "我們去吃飯吧"]),
        ("我我我我我我「我我」", 5, None),
        ("...", 43, ["..."]),
        ("Hi.\n\nThere\tyou  are.", 43, ["Hi. There you are."]),
    ],
)
def test_texts_are_cut_where_a_speaker_would_breathe(text, max_tokens, pieces):
    cut = split_text(text, count_tokens, max_tokens)
    if pieces is None:  # no piece starts with a closing mark or ends with an opening one
        assert not any(piece[0] in "」。、" or piece[-1] == "「" for piece in cut) and len(cut) > 1
    else:
        assert cut == [piece.strip() for piece in pieces]


@pytest.mark.parametrize(
    ("text", "max_sentences", "pieces"),
    [
        ("One. Two. Three.", 1, ["One.", "Two.", "Three."]),
        ("One. Two. Three.", 2, ["One. Two.", "Three."]),
        ("One.\nTwo.", 1, ["One.", "Two."]),
        ("Mr. Smith left.", 1, ["Mr. Smith left."]),
        ("... One. Two! ... :)", 1, ["... One.", "Two! ... :)"]),  # punctuation alone is no sentence
        (
            "one two, one two three one. Two.",
            1,
            ["one two,", "one two", "three one.", "Two."],
        ),  # nor is a part
    ],
)
def test_a_prompt_holds_no_more_sentences_than_a_model_speaks(text, max_sentences, pieces):
    assert split_text(text, count_tokens, 8 if "," not in text else 4, max_sentences=max_sentences) == pieces


def test_a_word_beyond_the_budget_is_not_cut():
    assert split_text(f"So: {'x' * 90} it is", count_tokens, 5) == ["So:", "x" * 90, "it is"]


def test_what_has_no_tokens_goes_with_a_neighbour():
    pieces = split_text("\u200b\n\nOne two three.\n\n\u200b\n\nFour five six.\n\n\u200b", count_tokens, 5)
    assert len(pieces) == 2 and all(count_tokens(piece) for piece in pieces)


@pytest.fixture(scope="module")
def bark():
    return Bark.from_pretrained("tiny")


@pytest.fixture(scope="module")
def tiny_voice():
    fine = np.random.default_rng(0).integers(0, 256, (8, 60))
    return Voice(np.random.default_rng(0).integers(0, 123, 40), fine[:2], fine)


@pytest.fixture
def quick(bark, monkeypatch):
    """A Bark whose networks are replaced: every row of text becomes a clip of its key's numbers, but for the tokens of
    rows listed in `quick.empty`, which end at once. `quick.batches` keeps the rows."""

    class Quick:
        def __init__(self):
            self.bark, self.batches, self.empty, self.n_rows = bark, [], set(), 0

        def generate_rows(self, rows, *rest):
            self.batches.append(list(rows))
            return [self.utterance(row) for row in rows]

        def utterance(self, row):
            n = 0 if self.n_rows in self.empty else 20
            self.n_rows += 1
            draw = np.random.default_rng(row.key)
            fine = draw.integers(0, 256, (8, n * 3 // 2), dtype=np.int32)
            logprob = draw.normal(size=n).astype(np.float32) - 3
            samples = draw.normal(size=320 * fine.shape[1]).astype(np.float32)
            semantic = draw.integers(0, 123, n, dtype=np.int32)
            return Utterance(semantic, fine[:2], fine, samples, logprob, np.full(fine[:2].shape, -2, np.float32))

    replaced = Quick()
    monkeypatch.setattr(bark.model, "generate_rows", replaced.generate_rows)
    return replaced


FOUR = "One is the first number. Two is the second one. Three comes just behind. Four is the last."


def test_a_long_text_becomes_one_recording(bark, tiny_voice, tmp_path):
    long = bark.generate_long(FOUR, voice=tiny_voice, seed=5, max_tokens=30, max_rows=2, **SHORT)
    assert [sentence.text for sentence in long.sentences] == [f"{text}." for text in FOUR[:-1].split(". ")]
    assert long.sample_rate == 24_000 and long.samples.dtype == np.float32 and np.isfinite(long.samples).all()
    for sentence in long.sentences:
        start = round(sentence.start_s * 24_000)
        np.testing.assert_array_equal(long.samples[start : start + len(sentence.clip.samples)], sentence.clip.samples)
    assert len(long.samples) == 4 * 30 * 320 + 3 * 6000
    assert long.seed == 5 and repr(long) == "LongClip(4 sentences, 2.35 s at 24,000 Hz)"
    long.save(tmp_path / "long.flac")


def test_a_sentence_is_spoken_again_from_what_the_recording_tells(bark, tiny_voice):
    long = bark.generate_long(FOUR, voice=tiny_voice, seed=5, max_tokens=30, max_rows=2, **SHORT)
    for index in (0, 2):
        text, voice, clip, _ = long.sentences[index]
        assert clip.seed == seed_of(derive_keys(key_data(5), SENTENCE, 8)[index])
        # As many rows as in the recording: floats of batches of other sizes may differ in the last bit.
        again = bark.generate([text] * 2, voice=voice, seed=clip.seed, **SHORT)
        np.testing.assert_array_equal(again[0].semantic, clip.semantic)
        np.testing.assert_array_equal(again[1].samples, clip.samples)


def test_sentences_run_in_batches(quick, tiny_voice):
    long = quick.bark.generate_long(FOUR, voice=tiny_voice, max_tokens=30, max_rows=3)
    assert [len(batch) for batch in quick.batches] == [3, 1]
    assert all(sentence.voice == tiny_voice for sentence in long.sentences)
    assert len({sentence.clip.seed for sentence in long.sentences}) == 4


def test_without_a_voice_the_first_sentence_that_sounds_finds_one(quick):
    quick.empty = {0}
    with pytest.warns(EmptyClipWarning, match=r"sentence\[0\]"):
        long = quick.bark.generate_long(FOUR, max_tokens=30)
    assert [len(batch) for batch in quick.batches] == [1, 1, 2]
    found = long.sentences[1].clip.as_voice()
    assert [sentence.voice for sentence in long.sentences] == [None, None, found, found]


def test_carry_makes_each_sentence_the_voice_of_the_next(quick, tiny_voice):
    quick.empty = {1}
    with pytest.warns(EmptyClipWarning):
        long = quick.bark.generate_long(FOUR, voice=tiny_voice, voice_mode="carry", max_tokens=30)
    clips = [sentence.clip for sentence in long.sentences]
    # The second is empty, so the third starts again from the voice itself.
    expected = [tiny_voice, clips[0].as_voice(), tiny_voice, clips[2].as_voice()]
    assert [sentence.voice for sentence in long.sentences] == expected
    assert [len(batch) for batch in quick.batches] == [1, 1, 1, 1]
    assert long.sentences[2].start_s == pytest.approx(clips[0].duration_s + 0.25)


def test_carry_keeps_the_speakers_of_a_dialogue_apart(quick, tiny_voice):
    other = Voice(tiny_voice.semantic[:20], tiny_voice.coarse[:, :30], tiny_voice.fine[:, :30])
    lines = [(tiny_voice, "Hello."), (other, "Hi."), (tiny_voice, "So?"), (other, "Fine."), (None, "Right.")]
    long = quick.bark.generate_long(lines, voice=other, voice_mode="carry")
    clips = [sentence.clip for sentence in long.sentences]
    expected = [tiny_voice, other, clips[0].as_voice(), clips[1].as_voice(), clips[3].as_voice()]
    assert [sentence.voice for sentence in long.sentences] == expected


def test_a_dialogue_has_a_voice_a_line(quick, tiny_voice, tmp_path):
    tiny_voice.save(tmp_path / "her.npz")
    lines = [(str(tmp_path / "her.npz"), "Hello there. " * 4), (None, "Hi.")]
    long = quick.bark.generate_long(lines, max_tokens=30, silence_s=0)
    assert [sentence.text for sentence in long.sentences] == ["Hello there. Hello there."] * 2 + ["Hi."]
    assert [sentence.voice for sentence in long.sentences] == [tiny_voice, tiny_voice, None]
    assert len(long.samples) == sum(len(sentence.clip.samples) for sentence in long.sentences)


@pytest.mark.parametrize(
    ("text", "arguments", "error"),
    [
        ("", {}, InputError),
        (" \n", {}, InputError),
        ([], {}, InputError),
        (["Hello."], {}, InputError),
        ([("a", "b", "c")], {}, InputError),
        ([(None, "")], {}, InputError),
        (b"Hello.", {}, InputError),
        ("Hi " * 400_000, {}, InputError),
        ("Hi.", {"voice_mode": "drift"}, InputError),
        ("Hi.", {"silence_s": -1}, InputError),
        ("Hi.", {"max_tokens": 0}, InputError),
        ("Hi.", {"max_tokens": 97}, InputError),
        ("Hi.", {"max_rows": 0}, InputError),
        ("Hi.", {"language": 3}, InputError),
        ("Hi.", {"seed": [1, 2]}, InputError),
        ("Hi.", {"temprature": 1}, InputError),
        ("x" * 97, {}, InputError),
        ("Hi.", {"voice": 3}, VoiceError),
        ([("nobody", "Hi.")], {}, VoiceNotFoundError),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(text, arguments, error, quick):
    with pytest.raises(error):
        quick.bark.generate_long(text, **arguments)
    assert not quick.batches

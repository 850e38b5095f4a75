"""Real-world text through the real vocabulary: decomposed letters, emoji, prompts with recorded tokens."""

import json
import unicodedata

import numpy as np
import pytest

from bark_jax import BarkProcessor
from bark_jax.errors import InputError
from bark_jax.text.prompts import UnknownCharactersWarning

UNKNOWN = 100  # [UNK] of bert-base-multilingual-cased
TEXTS = {
    "German": "Können Sie mir helfen? Über öde Straßen.",
    "French": "Ça va bien, n'est-ce pas ? Où êtes-vous né ?",
    "Korean": "안녕하세요. 오늘 날씨가 좋습니다.",
    "Japanese": "ガラスのパンダが、ばらばらになりました。",
    "Polish": "Zażółć gęślą jaźń.",
    "Portuguese": "Não há coração sem ação.",
    "Spanish": "Mañana será otro día, señor.",
    "Turkish": "Göğüs, çığlık, şeker.",
    "Vietnamese": "Tiếng Việt rất đẹp.",
    "Hindi": "लड़का पढ़ता है।",
    "Hindi, letters with a nukta as one character": "\u0932\u095c\u0915\u093e \u092a\u095d\u0924\u093e",
    "Russian": "Йод, ёжик.",
}


@pytest.fixture(scope="module")
def processor(real_data):
    return BarkProcessor(real_data / "mbert" / "vocab.txt")


def ids_of(processor, text):
    inputs = processor(text, padding="longest")
    return inputs["input_ids"][0].tolist()


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_no_word_is_lost_in_either_form_of_unicode(processor, text, form):
    found = ids_of(processor, unicodedata.normalize(form, text))
    assert UNKNOWN not in found
    assert found == ids_of(processor, text)


def test_compatibility_characters_stay_what_they_are(processor):
    """NFC and not NFKC, which would make other tokens than Suno's of them."""
    assert ids_of(processor, "½") != ids_of(processor, "1⁄2")


def test_recorded_prompts_have_the_tokens_that_the_published_model_was_given(processor, real_data):
    prompts = json.loads((real_data / "recorded_prompts.json").read_text())["prompts"]
    assert len(prompts) >= 5
    for prompt in prompts:
        expected = np.array(prompt["text_tokens"]) - 10_048
        np.testing.assert_array_equal(ids_of(processor, prompt["text"]), expected, err_msg=prompt["text"])


@pytest.mark.parametrize("text", ["😀", "😀 🎉", "𓀀𓀁"])
def test_a_text_of_unknown_characters_alone_is_refused(processor, text):
    with pytest.raises(InputError, match="knows no word"):
        processor(text)


def test_words_that_become_unknown_are_warned_of(processor):
    with pytest.warns(UnknownCharactersWarning, match="'cool😀', '🎉'") as caught:
        processor("That is cool😀 🎉 and fine 🎉.")
    assert caught[0].message.words == ("cool😀", "🎉")

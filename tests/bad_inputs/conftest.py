"""A toy model with Bark's own token spaces, and a check that refusals leave it unchanged."""

import string

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from toy import make_toy

from bark_jax.config import (
    BarkCoarseConfig,
    BarkConfig,
    BarkFineConfig,
    BarkGenerationConfig,
    BarkSemanticConfig,
    EncodecConfig,
)

# Non-ASCII characters of the valid texts.
LETTERS = "שָׁלוֹםمرحبا♪—👩👧בְּרֵאשִׁ֖ית בָּרָ֣אक्षत्रिय विद्यार्थी中"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SIZES = dict(num_layers=1, num_heads=2, hidden_size=16, bias=False)
CONFIG = BarkConfig(
    semantic_config=BarkSemanticConfig(input_vocab_size=129_600, output_vocab_size=10_048, **SIZES),
    coarse_acoustics_config=BarkCoarseConfig(input_vocab_size=12_096, output_vocab_size=12_096, **SIZES),
    fine_acoustics_config=BarkFineConfig(input_vocab_size=1056, output_vocab_size=1056, **SIZES),
    codec_config=EncodecConfig(num_filters=4, hidden_size=8, target_bandwidths=(1.5, 6.0)),
)
GOOD = dict(text="hello", seed=3, max_new_tokens=8, allow_early_stop=False)


def make_tokenizer() -> Tokenizer:
    """A BERT tokenizer with a word piece for each ASCII character and for LETTERS."""
    characters = dict.fromkeys(string.printable.strip() + LETTERS.replace(" ", ""))
    pieces = (*SPECIAL, *(mark + each for each in characters for mark in ("", "##")))
    tokenizer = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


@pytest.fixture(scope="session")
def bark_folder(tmp_path_factory):
    """The model's folder; tests must not write to it."""
    folder = tmp_path_factory.mktemp("bad_inputs") / "bark"
    return make_toy(folder, CONFIG, BarkGenerationConfig.suno(), make_tokenizer())


@pytest.fixture(scope="session")
def loaded(bark_folder):
    """The model, and the tokens of a valid call."""
    from bark_jax import Bark

    bark = Bark.from_pretrained(bark_folder)
    return bark, bark.generate(**GOOD).fine.tobytes()


@pytest.fixture(scope="module")
def bark(loaded):
    """The model. After all cases of a module a valid call must still give the same tokens."""
    bark, tokens = loaded
    yield bark
    assert bark.generate(**GOOD).fine.tobytes() == tokens

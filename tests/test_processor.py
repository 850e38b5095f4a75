"""The processor: ids equal to transformers', voices, and refused texts."""

import json
import os
import re
import unicodedata
import warnings

import numpy as np
import pytest
import toy
from corpus import make_sentences
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from voice_cases import BAD_ENTRIES, BAD_NAMES, fill_cache, make_arrays, make_folder, outside

from bark_jax.config import BarkGenerationConfig, save_json
from bark_jax.errors import (
    ConfigError,
    InputError,
    ModelNotFoundError,
    UnsupportedError,
    VoiceError,
    VoiceNotFoundError,
    quoted,
)
from bark_jax.generation.settings import resolve_settings
from bark_jax.generation.tokens import TokenSpaces, text_tokens
from bark_jax.text.processor import BarkProcessor
from bark_jax.text.prompts import TextCutWarning, UnknownCharactersWarning
from bark_jax.voices.voice import PROMPT_KEYS, Voice

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="session")
def vocabulary():
    """Word pieces as BERT's, learnt from the corpus. Some characters stay unknown."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=2500, limit_alphabet=350, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(make_sentences(1500, seed=1), trainer)
    return sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)


@pytest.fixture(scope="session")
def vocabulary_folder(vocabulary, tmp_path_factory):
    """A folder with vocab.txt and tokenizer_config.json, as the first checkpoints had."""
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "model_max_length": 512}')
    return folder


@pytest.fixture(scope="session")
def processor(vocabulary_folder):
    return BarkProcessor(vocabulary_folder)


def make_twin(folder, **options):
    """transformers' processor with the same vocabulary."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"), **{"do_lower_case": False} | options)
    return transformers.BarkProcessor(tokenizer)


@pytest.fixture(scope="session")
def twin(vocabulary_folder):
    return make_twin(vocabulary_folder)


@pytest.fixture
def model_folder(tmp_path, vocabulary_folder):
    """A model's folder with tokenizer and two voices."""
    folder = make_folder(tmp_path)
    for name in os.listdir(vocabulary_folder):
        (folder / name).write_bytes((vocabulary_folder / name).read_bytes())
    return folder


# --- parity ---------------------------------------------------------------------------------------------------------


# The vocabulary of these tests has few words.
unknown_words_are_fine = pytest.mark.filterwarnings("ignore::bark_jax.text.prompts.UnknownCharactersWarning")


def assert_equal_ids(ours, theirs, texts):
    theirs, unknown = theirs(texts, return_tensors="np"), ours.tokenizer.token_to_id("[UNK]")
    is_known_B = ((theirs["input_ids"] != unknown) & (theirs["attention_mask"] == 1)).any(1)
    assert is_known_B.mean() > 0.98
    texts = [text for text, is_known in zip(texts, is_known_B, strict=True) if is_known]
    theirs, mine = {name: array[is_known_B] for name, array in theirs.items()}, ours(texts)
    for row in np.flatnonzero((mine["input_ids"] != theirs["input_ids"]).any(1)):
        pytest.fail(f"{texts[row]!r}: {mine['input_ids'][row]} != {theirs['input_ids'][row]}")
    np.testing.assert_array_equal(mine["attention_mask"], theirs["attention_mask"])


@unknown_words_are_fine
def test_ids_equal_transformers(processor, twin, vocabulary):
    texts = make_sentences(4000)
    assert_equal_ids(processor, twin, texts)
    ids = twin(texts, return_tensors="np")["input_ids"]
    assert 0.001 < (ids == 1).sum() / (ids > 0).sum() < 0.2  # of unknown words there are some, not many
    used = np.unique(ids)
    assert used.size > 1000 and sum(vocabulary[index].startswith("##") for index in used) > 200


@unknown_words_are_fine
@pytest.mark.parametrize(
    "options", [{"do_lower_case": True}, {"strip_accents": True}, {"tokenize_chinese_chars": False}], ids=str
)
def test_options_of_the_tokenizer_are_read(options, vocabulary_folder, tmp_path):
    (tmp_path / "vocab.txt").write_bytes((vocabulary_folder / "vocab.txt").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False} | options))
    texts = make_sentences(300, seed=2)
    ours = BarkProcessor(tmp_path)
    assert_equal_ids(ours, make_twin(tmp_path, **options), texts)
    known = texts[:20]
    assert (ours(known)["input_ids"] != BarkProcessor(vocabulary_folder)(known)["input_ids"]).any()


@unknown_words_are_fine
@pytest.mark.parametrize("changes", [{}, {"do_lower_case": True}, {"strip_accents": True}], ids=str)
def test_what_transformers_saved_is_read_alike(changes, twin, tmp_path):
    transformers = pytest.importorskip("transformers")
    twin.save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.txt").exists()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | changes))
    texts = make_sentences(300, seed=3)
    twin(["x"], return_tensors="np")  # leaves its padding in the tokenizer.json of the next save
    assert_equal_ids(
        BarkProcessor.from_pretrained(tmp_path), transformers.BarkProcessor.from_pretrained(tmp_path), texts
    )


def test_padding_left_in_a_tokenizer_file_is_ignored(twin, tmp_path):
    twin("x", return_tensors="np")
    twin.tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["padding"] is not None
    assert BarkProcessor(tmp_path)("hello", padding="longest")["input_ids"].shape[1] < 10


@unknown_words_are_fine
def test_transformers_reads_what_we_save(model_folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = BarkProcessor.from_pretrained(model_folder)
    ours.save_pretrained(tmp_path / "saved")
    theirs = transformers.BarkProcessor.from_pretrained(tmp_path / "saved")
    assert_equal_ids(ours, theirs, make_sentences(300, seed=4))
    assert theirs.available_voice_presets == ours.available_voice_presets
    voice = theirs("hello", voice_preset="v2/de_speaker_3", return_tensors="np")["history_prompt"]
    assert Voice.from_dict(voice) == ours.library.load("v2/de_speaker_3")


@unknown_words_are_fine
def test_a_tokenizer_of_transformers_is_taken(processor, twin):
    texts = make_sentences(50, seed=5)
    np.testing.assert_array_equal(BarkProcessor(twin.tokenizer)(texts)["input_ids"], processor(texts)["input_ids"])


def test_decomposed_text_has_the_tokens_of_composed_text(processor):
    texts = ["Können Sie über öde Straßen gehen?", "é"]
    decomposed = [unicodedata.normalize("NFD", text) for text in texts]
    assert decomposed != texts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownCharactersWarning)
        for given in (texts, decomposed):
            np.testing.assert_array_equal(processor(given)["input_ids"], processor(texts)["input_ids"])


def test_the_warning_of_a_cut_text_has_its_normalised_rest(processor):
    text = unicodedata.normalize("NFD", "é é é a b")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        processor(text, max_length=3, truncation=True)
    (cut,) = (each.message.cut for each in caught if isinstance(each.message, TextCutWarning))
    assert cut == "a b"


def test_a_word_of_unknown_characters_is_a_warning_and_a_text_of_them_an_error(processor):
    with pytest.warns(UnknownCharactersWarning, match="cannot read '𓀀', 'cool𓀀'") as caught:
        processor(["hello 𓀀 hello", "hello cool𓀀 𓀀"])
    (warning,) = caught
    assert warning.message.words == ("𓀀", "cool𓀀")
    for text in ("𓀀", "𓀀 𓀀", ["hello", "𓀀"]):
        with pytest.raises(InputError, match=r"text(\[1\])? is '𓀀.*knows no word"):
            processor(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnknownCharactersWarning)
        with pytest.raises(UnknownCharactersWarning):
            processor("hello 𓀀")


# --- the call -------------------------------------------------------------------------------------------------------


def test_inputs_are_padded_to_the_prompt(processor):
    inputs = processor(["hello world", "hello"])
    assert inputs.keys() == {"input_ids", "attention_mask"}
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (2, 256)
    assert inputs["input_ids"].dtype == inputs["attention_mask"].dtype == np.int32
    assert inputs.input_ids is inputs["input_ids"]
    assert (inputs["input_ids"][inputs["attention_mask"] == 0] == 0).all()
    assert processor("hello")["input_ids"].shape == (1, 256)
    with pytest.raises(AttributeError, match="they have input_ids, attention_mask"):
        _ = inputs.history_prompt


def test_columns_follow_max_length_and_padding(processor):
    assert processor("hello", max_length=10)["input_ids"].shape == (1, 10)
    full = processor(["hello", "hello my dog"])["input_ids"]
    longest = processor(["hello", "hello my dog"], padding="longest")["input_ids"]
    assert 3 <= longest.shape[1] < 20
    np.testing.assert_array_equal(longest, full[:, : longest.shape[1]])
    np.testing.assert_array_equal(processor("hello", padding=True, max_length=np.int64(9)).attention_mask, [[1]])


def test_optional_arrays(processor):
    assert processor("hello", return_attention_mask=False).keys() == {"input_ids"}
    assert not processor("hello", return_token_type_ids=True)["token_type_ids"].any()


def test_jax_arrays_on_request(processor):
    import jax

    assert isinstance(processor("hello", return_tensors="jax")["input_ids"], jax.Array)
    assert isinstance(processor("hello", return_tensors=None)["input_ids"], np.ndarray)


BAD_SETTINGS = [
    ({"return_tensors": "pt"}, UnsupportedError, "Leave it out"),
    ({"return_tensors": "tf"}, UnsupportedError, "'np' and 'jax'"),
    ({"return_tensors": "x"}, InputError, "expected 'np', 'jax' or None"),
    ({"return_tensors": ["np"]}, InputError, "return_tensors"),
    ({"max_length": 0}, InputError, "expected 1 to the 256 text tokens"),
    ({"max_length": 257}, InputError, "expected 1 to the 256 text tokens"),
    ({"max_length": 2.5}, InputError, "an integer"),
    ({"max_length": True}, InputError, "an integer"),
    ({"padding": False}, InputError, "rows are of one length"),
    ({"padding": ["longest"]}, InputError, "padding"),
    ({"padding": np.array(["longest", "x"])}, InputError, "padding is array"),
    ({"max_length": 10**5000}, InputError, "max_length is a number too long to show"),
    ({"add_special_tokens": True}, InputError, r"without \[CLS\]"),
    ({"truncation": "only_first"}, InputError, "expected true or false"),
    ({"voice_preset": ["a", "b"]}, VoiceError, "is no voice"),
]


@pytest.mark.parametrize("settings, error, message", BAD_SETTINGS, ids=lambda value: quoted(value)[:40])
def test_bad_settings_are_refused(processor, settings, error, message):
    with pytest.raises(error, match=message):
        processor("hello", **settings)


def test_what_is_saved_over_a_file_is_refused(processor, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file; give the name of a folder"):
        processor.save_pretrained(tmp_path / "file")


def test_the_width_comes_from_the_models_token_spaces(vocabulary_folder):
    processor = BarkProcessor(vocabulary_folder, spaces=TokenSpaces(n_text=12))
    assert processor("hello")["input_ids"].shape == (1, 12)


# --- texts ----------------------------------------------------------------------------------------------------------


def test_a_text_of_just_the_prompts_length_is_taken(processor):
    n_tokens = int(processor("dog. dog.")["attention_mask"].sum()) // 2
    text = "dog. " * (256 // n_tokens)
    assert processor(text)["attention_mask"].sum() == 256 // n_tokens * n_tokens
    with pytest.raises(InputError, match="tokens"):
        processor(text + "dog. ")


def test_truncation_cuts_and_says_what(processor, twin):
    text = "hello " * 260
    n_tokens = int(processor("hello")["attention_mask"].sum())
    assert n_tokens == 1
    with pytest.warns(
        TextCutWarning, match=r"text has 260 tokens, of which 256 are read; cut off: 'hello hello"
    ) as caught:
        inputs = processor(text, truncation=True)
    assert caught[0].message.cut == "hello " * 4
    assert caught[0].filename == __file__
    theirs = twin(text, truncation=True, return_tensors="np")
    np.testing.assert_array_equal(inputs["input_ids"], theirs["input_ids"])
    with pytest.warns(TextCutWarning, match=r"text\[1\] has 3 tokens, of which 2"):
        processor(["hello", "hello hello hello"], truncation=True, max_length=2)


# --- voices ---------------------------------------------------------------------------------------------------------


def test_one_voice_for_all_or_one_a_text(model_folder):
    processor = BarkProcessor.from_pretrained(model_folder)
    voice = Voice.from_dict(make_arrays())
    one = processor(["hello", "world"], voice_preset="en_speaker_0")["history_prompt"]
    assert one == voice and one.name == "en_speaker_0"
    each = processor(["hello", "world"], voice_preset=["v2/de_speaker_3", None])["history_prompt"]
    assert each == [voice, None]
    assert processor(["hello"], voice_preset=make_arrays())["history_prompt"] == voice
    assert "history_prompt" not in processor("hello")
    with pytest.raises(InputError, match="1 voices for 2 texts"):
        processor(["hello", "world"], voice_preset=["en_speaker_0"])


@pytest.mark.parametrize("voice", [5, ["en_speaker_0"], b"x", {}], ids=["P17", "P18", "bytes", "empty dict"])
def test_what_is_no_voice_is_refused(voice, model_folder):
    with pytest.raises(VoiceError):
        BarkProcessor.from_pretrained(model_folder)("hello", voice_preset=voice)


@pytest.mark.parametrize("case", BAD_NAMES)
def test_bad_names_are_not_found(case, model_folder, tmp_path):
    outside(tmp_path)
    with pytest.raises(VoiceNotFoundError):
        BarkProcessor.from_pretrained(model_folder)("hello", voice_preset=BAD_NAMES[case][0].format(tmp=tmp_path))


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_bad_entries_are_neither_read_nor_saved(case, model_folder, tmp_path):
    entry = BAD_ENTRIES[case](outside(tmp_path))
    processor = BarkProcessor.from_pretrained(make_folder(tmp_path, bad=entry))
    with pytest.raises(VoiceError):
        processor("hello", voice_preset="bad")
    with pytest.raises(VoiceError):
        processor.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("name", ["../../PWNED", "/tmp/PWNED", "a/../../PWNED", "..\\PWNED", "", " x", "a\nb"])
def test_p21_a_name_that_leads_elsewhere_is_not_saved(name, model_folder, tmp_path):
    listed = json.loads((model_folder / "speaker_embeddings_path.json").read_text())
    listed[name] = listed["en_speaker_0"]
    (model_folder / "speaker_embeddings_path.json").write_text(json.dumps(listed))
    with pytest.raises(VoiceError, match="is no name for a voice's file"):
        BarkProcessor.from_pretrained(model_folder).save_pretrained(tmp_path / "a" / "b" / "saved")
    assert not (tmp_path / "a").exists()


@unknown_words_are_fine
def test_a_processor_comes_back_from_its_folder(model_folder, tmp_path):
    first = BarkProcessor.from_pretrained(model_folder)
    first.save_pretrained(tmp_path / "saved")
    second = BarkProcessor.from_pretrained(tmp_path / "saved")
    texts = make_sentences(50, seed=6)
    np.testing.assert_array_equal(first(texts)["input_ids"], second(texts)["input_ids"])
    assert second.available_voice_presets == ["en_speaker_0", "v2/de_speaker_3"]
    assert second.voices("German") == ["v2/de_speaker_3"]
    assert second.library.load("en_speaker_0") == first.library.load("en_speaker_0")
    assert second.speaker_embeddings["repo_or_path"] == str(tmp_path / "saved")
    assert str(tmp_path) not in (tmp_path / "saved" / "speaker_embeddings_path.json").read_text()
    assert not list(tmp_path.glob("saved/**/*.partial"))


def test_voices_are_saved_where_the_caller_wants(model_folder, tmp_path):
    BarkProcessor.from_pretrained(model_folder).save_pretrained(tmp_path, "voices.json", "voices/all")
    assert (tmp_path / "voices/all/v2/de_speaker_3_fine_prompt.npy").is_file()
    assert BarkProcessor.from_pretrained(tmp_path, "voices.json").library.load("en_speaker_0")
    with pytest.raises(InputError, match="no path below"):
        BarkProcessor.from_pretrained(model_folder).save_pretrained(tmp_path, "../voices.json")


def test_transformers_dict_of_voices_is_taken(vocabulary_folder, model_folder):
    listed = json.loads((model_folder / "speaker_embeddings_path.json").read_text())
    processor = BarkProcessor(vocabulary_folder, listed | {"repo_or_path": str(model_folder)})
    assert processor.available_voice_presets == ["en_speaker_0", "v2/de_speaker_3"]
    assert processor("hello", "en_speaker_0")["history_prompt"].semantic.size == 100
    assert BarkProcessor(vocabulary_folder).speaker_embeddings is None
    assert BarkProcessor(vocabulary_folder).available_voice_presets == []


def test_a_model_without_voices_gets_the_published_names(vocabulary_folder, tmp_path):
    processor = BarkProcessor.from_pretrained(vocabulary_folder)
    assert len(processor.available_voice_presets) == 261
    with pytest.raises(VoiceNotFoundError, match="suno/bark"):
        processor("hello", voice_preset="v2/en_speaker_6")
    processor.save_pretrained(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["tokenizer.json", "tokenizer_config.json"]
    assert BarkProcessor.from_pretrained(vocabulary_folder, None).available_voice_presets == []


# --- loading --------------------------------------------------------------------------------------------------------


def test_a_hub_model_is_read_from_the_cache(vocabulary_folder, model_folder, tmp_path):
    files = {str(path.relative_to(model_folder)): path for path in model_folder.rglob("*") if path.is_file()}
    cache = tmp_path / "cache"
    fill_cache(cache, "suno/bark-small", {name: path.read_bytes() for name, path in files.items()})
    processor = BarkProcessor.from_pretrained("suno/bark-small", cache_dir=cache, local_files_only=True)
    assert processor("hello", voice_preset="en_speaker_0")["history_prompt"] == Voice.from_dict(make_arrays())
    assert processor.speaker_embeddings["repo_or_path"] == "suno/bark-small"


def test_a_model_without_a_tokenizer_gets_barks(vocabulary_folder, tmp_path):
    files = {name: (vocabulary_folder / name).read_bytes() for name in os.listdir(vocabulary_folder)}
    fill_cache(tmp_path / "cache", "bert-base-multilingual-cased", files)
    (tmp_path / "model").mkdir()
    processor = BarkProcessor.from_pretrained(tmp_path / "model", cache_dir=tmp_path / "cache", local_files_only=True)
    np.testing.assert_array_equal(processor("hello").input_ids, BarkProcessor(vocabulary_folder)("hello").input_ids)


def test_without_any_tokenizer_the_error_names_the_ways_out(tmp_path):
    for name in (tmp_path, "suno/bark-small"):
        with pytest.raises(ModelNotFoundError, match=r"hf download bert-base-multilingual-cased.*pass tokenizer="):
            BarkProcessor.from_pretrained(name, cache_dir=tmp_path, local_files_only=True)


def test_the_tokenizer_can_be_given(vocabulary_folder, tmp_path):
    given = BarkProcessor(vocabulary_folder).tokenizer
    for tokenizer in (given, vocabulary_folder, vocabulary_folder / "vocab.txt", str(vocabulary_folder / "vocab.txt")):
        assert BarkProcessor.from_pretrained(tmp_path, tokenizer=tokenizer)("hello").input_ids.any()
    given.save(str(tmp_path / "other.json"))
    assert BarkProcessor.from_pretrained(tmp_path, tokenizer=tmp_path / "other.json")("hello").input_ids.any()


def test_a_given_tokenizer_is_not_changed(vocabulary_folder):
    tokenizer = BarkProcessor(vocabulary_folder).tokenizer
    tokenizer.enable_padding(length=7)
    assert BarkProcessor(tokenizer)("hello", padding="longest").input_ids.shape == (1, 1)
    assert tokenizer.padding["length"] == 7


@pytest.mark.parametrize(
    "name, content, error",
    [
        ("tokenizer.json", "{", ConfigError),
        ("tokenizer.json", "{}", ConfigError),
        ("tokenizer_config.json", "[]", ConfigError),
        ("tokenizer_config.json", "{", ConfigError),
        ("tokenizer_config.json", '{"do_lower_case": "no"}', ConfigError),
        ("vocab.txt", "hello\nworld\n", ConfigError),
        ("vocab.txt", "", ConfigError),
        ("generation_config.json", "{}", ConfigError),
        ("generation_config.json", "{", ConfigError),
    ],
)
def test_damaged_files_are_named(name, content, error, model_folder):
    (model_folder / name).write_text(content)
    with pytest.raises(error, match=name):
        BarkProcessor.from_pretrained(model_folder)


def test_a_tokenizer_that_cannot_read_is_named():
    with pytest.raises(ConfigError, match=r"cannot read text, 'hello'"):
        BarkProcessor(Tokenizer(models.WordPiece({"a": 0}, unk_token="[UNK]")))("hello")


def test_a_tokenizer_too_large_for_the_model_is_refused(vocabulary_folder):
    with pytest.raises(ConfigError, match="the model's vocabulary 126"):
        BarkProcessor(vocabulary_folder, spaces=TokenSpaces.from_config(toy.GENERATION_CONFIG))


def test_bytes_that_are_no_text_are_no_vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe[UNK]\n")
    with pytest.raises(ConfigError, match=r"vocab\.txt"):
        BarkProcessor(tmp_path)


@pytest.mark.parametrize("tokenizer", [None, 5, object()])
def test_what_is_no_tokenizer_is_refused(tokenizer):
    with pytest.raises(InputError, match="is no tokenizer"):
        BarkProcessor(tokenizer)
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        BarkProcessor("nowhere/vocab.txt")


def test_token_spaces_come_from_the_model(model_folder):
    save_json(BarkGenerationConfig(), model_folder / "generation_config.json")
    assert BarkProcessor.from_pretrained(model_folder).spaces == TokenSpaces()
    save_json(toy.GENERATION_CONFIG, model_folder / "generation_config.json")
    processor = BarkProcessor.from_pretrained(model_folder, tokenizer=toy.make_tokenizer())
    assert processor("hello").input_ids.shape == (1, 96)
    with pytest.raises(VoiceError, match="expected 0 to 122"):
        processor("hello", voice_preset="en_speaker_0")


def test_the_built_in_model_has_its_own_tokenizer_and_no_voices(tmp_path):
    processor = BarkProcessor.from_pretrained("tiny")
    inputs = processor(["Hello there.", "?"])
    assert inputs["input_ids"].shape == (2, 96)
    assert inputs["attention_mask"].sum(1).tolist() == [12, 1]
    assert processor.available_voice_presets == []
    with pytest.raises(VoiceNotFoundError, match="no voices of its own"):
        processor("hello", voice_preset="v2/en_speaker_6")
    processor.save_pretrained(tmp_path)
    again = BarkProcessor.from_pretrained(tmp_path, spaces=processor.spaces)
    np.testing.assert_array_equal(again("Hello there.")["input_ids"], inputs["input_ids"][:1])


TWO = "Thank you very much. The weather is good."


@pytest.fixture(scope="module")
def one_sentence():
    processor = BarkProcessor.from_pretrained("tiny")
    return BarkProcessor(processor.tokenizer, spaces=processor.spaces, max_sentences=1)


@pytest.mark.parametrize(("text", "what"), [(TWO, "text"), (["Hello.", TWO], "text[1]")])
def test_more_sentences_than_the_model_speaks_are_refused(text, what, one_sentence):
    with pytest.raises(InputError, match=re.escape(f"{what} has 2 sentences")) as caught:
        one_sentence(text)
    assert "'The weather is good.' would be lost" in str(caught.value) and "generate_long" in str(caught.value)


def test_more_sentences_are_cut_when_asked(one_sentence):
    with pytest.warns(TextCutWarning, match="cut off: 'The weather is good.'") as caught:
        cut = one_sentence(TWO, truncation=True)
    assert caught[0].message.cut == "The weather is good." and caught[0].filename == __file__
    np.testing.assert_array_equal(cut.input_ids, one_sentence("Thank you very much. ").input_ids)


def test_what_was_split_is_not_counted_again(one_sentence):
    """German counts days with a full stop, English takes it for the end of a sentence."""
    (piece,) = one_sentence.split("Am 3. Mai kommt er.", language="de", max_tokens=90)
    assert not one_sentence.is_within_sentence_limit(piece)
    assert one_sentence.is_within_sentence_limit("One, two.") and one_sentence.is_within_sentence_limit("")
    assert one_sentence(piece, is_split=True).input_ids.shape == (1, 96)


def test_prompts_have_the_ids_and_voices_of_a_call(model_folder):
    processor, voice = BarkProcessor.from_pretrained(model_folder), Voice.from_dict(make_arrays())
    texts, voices = ["hello", "hello dog"], [None, voice]
    inputs, prompts = processor(texts, voice_preset=voices), processor.prompts(texts, voices)
    assert prompts.texts == texts and prompts.voices == inputs["history_prompt"]
    assert [len(ids) for ids in prompts.ids] == inputs["attention_mask"].sum(1).tolist()
    settings = resolve_settings({}, 2, BarkGenerationConfig(), processor.spaces)
    script = prompts.script([np.zeros(2, np.uint32), np.ones(2, np.uint32)], settings, processor.spaces)
    assert script.texts == texts and [row.voice for row in script.rows] == voices
    for row, ids_T, mask_T in zip(script.rows, inputs["input_ids"], inputs["attention_mask"], strict=True):
        np.testing.assert_array_equal(row.text, text_tokens(ids_T, mask_T, processor.spaces))
    assert [row.key.tolist() for row in script.rows] == [[0, 0], [1, 1]]
    assert processor.prompts("hello", voice).voices == [voice]


def test_sentences_are_prompts_in_the_voices_of_their_lines(one_sentence):
    fine = np.arange(8 * 30).reshape(8, 30) % one_sentence.spaces.codebook_size
    anna, ben = (Voice(semantic=np.arange(n), coarse=fine[:2], fine=fine) for n in (20, 19))
    prompts = one_sentence.sentences([(None, TWO), (ben, "Hello.")], anna)
    assert prompts.texts == ["Thank you very much.", "The weather is good.", "Hello."]
    assert prompts.voices == [anna, anna, ben]
    assert prompts.ids == one_sentence.prompts(prompts.texts).ids


def test_keys_are_those_of_suno():
    assert PROMPT_KEYS == ("semantic_prompt", "coarse_prompt", "fine_prompt")


def test_split_makes_prompts_that_the_model_reads(toy_model):
    processor = BarkProcessor.from_pretrained("tiny")
    pieces = processor.split("The weather is beautiful today. " * 20)
    assert " ".join(pieces).split() == ("The weather is beautiful today. " * 20).split()
    assert max(processor(pieces)["attention_mask"].sum(axis=1)) <= processor.spaces.n_text
    assert processor.split("One two.", max_tokens=1, language="de") != ["One two."]
    for wrong in ({"max_tokens": 0}, {"max_tokens": processor.spaces.n_text + 1}, {"language": 5}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            processor.split("Hello.", **wrong)

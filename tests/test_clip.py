"""Clips: audio formats, players, plots, voices, concatenation."""

import base64
import io
import math
import sys

import numpy as np
import pytest
import soundfile

from bark_jax.audio.clip import MAX_WAV_PLAYER_S, Clip, Recording, join
from bark_jax.audio.files import write_audio
from bark_jax.audio.formats import FORMATS
from bark_jax.errors import InputError, UnsupportedError, VoiceError
from bark_jax.voices.voice import BARK_SPACES, check_voice

RATE = 24_000


def make_clip(n_semantic=100, seed=0, rate=RATE):
    """A clip whose arrays have the lengths that Bark gives them; its audio is a tone of 440 Hz."""
    rng = np.random.default_rng(seed)
    n_frames = BARK_SPACES.n_frames(n_semantic)
    fine = rng.integers(0, 1024, (8, n_frames), dtype=np.int32)
    return Clip(
        samples=tone(320 * n_frames, rate),
        sample_rate=rate,
        text="Hello.",
        semantic=rng.integers(0, 10_000, n_semantic, dtype=np.int32),
        coarse=fine[:2],
        fine=fine,
        semantic_logprob=np.full(n_semantic, -1.0, np.float32),
        coarse_logprob=np.full((2, n_frames), -2.0, np.float32),
        seed=7,
        stats={},
    )


def tone(n_samples, rate=RATE):
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(n_samples) / rate)).astype(np.float32)


@pytest.mark.parametrize("ending", FORMATS)
def test_every_kind_of_file_decodes_to_the_clip(ending, tmp_path):
    clip = make_clip()
    clip.save(tmp_path / f"clip{ending}")
    samples, rate = soundfile.read(tmp_path / f"clip{ending}", dtype="float32")
    assert rate == clip.sample_rate
    assert samples.shape == clip.samples.shape
    assert np.corrcoef(samples, clip.samples)[0, 1] > 0.99
    assert [file.name for file in tmp_path.iterdir()] == [f"clip{ending}"]


@pytest.mark.parametrize("ending", FORMATS)
def test_bytes_are_those_of_a_file(ending):
    clip, name = make_clip(), ending.removeprefix(".").upper()
    samples, rate = soundfile.read(io.BytesIO(clip.to_bytes(name)), dtype="float32")
    assert rate == clip.sample_rate and np.corrcoef(samples, clip.samples)[0, 1] > 0.99


def test_bytes_of_what_is_no_format_are_refused():
    for name in (".wav", "aac", None, 3):
        with pytest.raises(InputError, match=r"audio format is .*expected one of wav, flac, ogg, opus, mp3"):
            make_clip().to_bytes(name)
    with pytest.raises(InputError, match="the audio is empty, which no MP3 file can be"):
        make_clip(0).to_bytes("mp3")


@pytest.mark.parametrize("ending", FORMATS)
def test_stereo_is_kept(ending, tmp_path):
    samples = np.stack([tone(9000), np.zeros(9000, np.float32)], axis=1)
    write_audio(tmp_path / f"clip{ending}", samples, RATE)
    assert soundfile.info(tmp_path / f"clip{ending}").channels == 2


def test_minutes_of_vorbis_are_written(tmp_path):
    n_samples = 10 * 60 * RATE
    write_audio(tmp_path / "long.ogg", np.zeros(n_samples, np.float32), RATE)
    assert soundfile.info(tmp_path / "long.ogg").frames == n_samples


def test_wav_samples_are_rounded_and_clipped(tmp_path):
    write_audio(tmp_path / "clip.wav", np.array([0.25, 1.5, -1.5], np.float32), RATE)
    samples, _ = soundfile.read(tmp_path / "clip.wav")
    np.testing.assert_allclose(samples, [0.25, 1, -1], atol=2**-15)


@pytest.mark.parametrize("ending", [".wav", ".ogg"])
def test_an_empty_clip_becomes_a_valid_empty_file(ending, tmp_path):
    make_clip(0).save(tmp_path / f"empty{ending}")
    samples, rate = soundfile.read(tmp_path / f"empty{ending}")
    assert len(samples) == 0 and rate == RATE


@pytest.mark.parametrize("ending", [".flac", ".opus", ".mp3"])
def test_kinds_that_cannot_be_empty_refuse_an_empty_clip(ending, tmp_path):
    with pytest.raises(InputError, match="empty"):
        make_clip(0).save(tmp_path / f"empty{ending}")
    assert not list(tmp_path.iterdir())


def test_a_sample_rate_that_a_kind_does_not_have_is_refused(tmp_path):
    with pytest.raises(InputError, match="32000 Hz"):
        make_clip(rate=32_000).save(tmp_path / "clip.opus")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["clip", "clip.aac", "none/clip.wav"])
def test_a_path_or_format_that_cannot_be_written_is_refused(name, tmp_path):
    with pytest.raises(InputError, match=r"expected one of|does not exist"):
        make_clip().save(tmp_path / name)


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "clip.wav").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        make_clip().save(tmp_path / "clip.wav")


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "clip.wav"
    make_clip(10).save(path)
    before = path.read_bytes()
    monkeypatch.setattr("bark_jax.audio.files.os.fsync", lambda handle: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        make_clip(20).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("n_semantic", [1, 2, 100, 768])
def test_a_clip_is_a_voice(n_semantic):
    clip = make_clip(n_semantic)
    voice = check_voice(clip.as_voice(), BARK_SPACES)
    np.testing.assert_array_equal(voice.fine, clip.fine)


def test_an_empty_clip_is_no_voice():
    with pytest.raises(VoiceError, match="empty"):
        make_clip(0).as_voice()


def test_mean_log_probability_counts_every_semantic_token_and_coarse_code():
    clip = make_clip(100)
    n_codes = 2 * clip.fine.shape[1]
    assert clip.mean_logprob == pytest.approx(-(100 + 2 * n_codes) / (100 + n_codes))
    assert make_clip(0).mean_logprob == -math.inf


def test_a_notebook_gets_a_player_with_the_audio_inside():
    clip = make_clip()
    html = clip._repr_html_()
    assert html.startswith("<audio controls")
    wav = base64.b64decode(html.partition("base64,")[2].partition('"')[0])
    samples, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    assert rate == RATE
    np.testing.assert_allclose(samples, clip.samples, atol=2**-15)


def test_a_long_player_is_compressed():
    n_samples = round((MAX_WAV_PLAYER_S + 1) * RATE)
    html = Recording(tone(n_samples), RATE)._repr_html_()
    assert "audio/mpeg" in html and len(html) < n_samples


def test_the_repr_of_a_clip_is_one_line():
    assert repr(make_clip()) == "Clip('Hello.', 2.00 s at 24,000 Hz, seed=7)"


def test_joined_clips_have_silence_between():
    first, empty, second = make_clip(10), make_clip(0), make_clip(20)
    samples, starts_s = join([empty, first, empty, second], silence_s=0.5)
    n = len(first.samples)
    np.testing.assert_array_equal(samples[:n], first.samples)
    assert not samples[n : n + RATE // 2].any()
    np.testing.assert_array_equal(samples[n + RATE // 2 :], second.samples)
    assert starts_s == [0, 0, n / RATE, n / RATE + 0.5]


def test_clips_are_concatenated_into_a_recording(tmp_path):
    clips = [make_clip(10), make_clip(20)]
    recording = Clip.concatenate(clips)
    assert len(recording.samples) == sum(len(clip.samples) for clip in clips)
    assert recording.duration_s == pytest.approx(sum(clip.duration_s for clip in clips))
    recording.save(tmp_path / "both.wav")


def test_only_empty_clips_join_to_nothing():
    samples, starts_s = join([make_clip(0), make_clip(0)], 1.0)
    assert samples.shape == (0,) and starts_s == [0, 0]


@pytest.mark.parametrize("silence_s", [-1, 61, math.nan, math.inf, "1", None, True])
def test_a_silence_that_is_no_duration_is_refused(silence_s):
    with pytest.raises(InputError, match="silence_s"):
        join([make_clip(1)], silence_s)


@pytest.mark.parametrize("clips", ["abc", [None], 5, iter([])], ids=["text", "none", "number", "iterator"])
def test_what_is_no_list_of_clips_is_refused(clips):
    with pytest.raises(InputError, match=r"the clips to join are .*expected a list of clips"):
        join(clips)


def test_clips_that_do_not_go_together_are_refused():
    with pytest.raises(InputError, match="no clips"):
        Clip.concatenate([])
    with pytest.raises(InputError, match=r"differ in sample rate and channels, .*expected clips of one model"):
        Clip.concatenate([make_clip(10), make_clip(10, rate=48_000)])


def test_a_plot_is_written_and_displayed(tmp_path):
    pytest.importorskip("matplotlib")
    figure = make_clip().plot(tmp_path / "clip.png")
    assert (tmp_path / "clip.png").read_bytes().startswith(b"\x89PNG")
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert len(figure.axes) == 3  # waveform, spectrogram, its scale
    make_clip(0).plot(tmp_path / "empty.svg")
    for name in ("clip.xyz", "none/clip.png"):
        with pytest.raises(InputError):
            make_clip().plot(tmp_path / name)


def test_the_spectrogram_shows_a_tone_in_its_band():
    plots = pytest.importorskip("bark_jax.audio.plots", exc_type=UnsupportedError)
    spectrogram = plots.mel_spectrogram(tone(RATE), RATE)
    band = plots.mel_filters(RATE, plots.WINDOW, plots.N_MELS)[:, round(440 / RATE * plots.WINDOW)].argmax()
    assert (spectrogram[:, 2:-2].argmax(axis=0) == band).all()
    assert spectrogram.shape[0] == plots.N_MELS and spectrogram.max() == 0
    assert (plots.mel_spectrogram(np.zeros(RATE), RATE) == plots.FLOOR_DB).all()


def test_the_envelope_keeps_every_peak():
    plots = pytest.importorskip("bark_jax.audio.plots", exc_type=UnsupportedError)
    samples = np.zeros(1_000_003, np.float32)
    samples[777_777], samples[5] = 1, -1
    low, high = plots.envelope(samples)
    assert len(low) == plots.MAX_COLUMNS and low.min() == -1 and high.max() == 1


def test_a_plot_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "bark_jax.audio.plots", raising=False)
    with pytest.raises(UnsupportedError, match="pip install"):
        make_clip().plot()

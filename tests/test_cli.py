"""The command line, mostly run in this process, so that one compiled toy model serves all tests."""

import io
import json
import os
import shutil
import subprocess
import sys
import warnings

import click
import jax
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

import bark_jax
from bark_jax import tiny
from bark_jax.checkpoints.progress import BytesBar
from bark_jax.cli import batch, main, player, say, say_audio, say_speech, say_text
from bark_jax.cli.options import sampling_options
from bark_jax.cli.progress import Progress
from bark_jax.config import GENERATION_CONFIG_FILE
from bark_jax.errors import CheckpointError, InputError, UnsupportedError
from bark_jax.generation.settings import SETTINGS
from bark_jax.text.processor import BarkProcessor
from bark_jax.voices.voice import Voice

HEAVY = ("jax", "flax", "torch", "transformers")
VERBS = list(main.commands)
SHORT = ("--max-seconds", "0.2", "--seed", "3")


@pytest.fixture(scope="session")
def hf_home(tmp_path_factory):
    return tmp_path_factory.mktemp("hf_home")


@pytest.fixture(autouse=True)
def at_home(hf_home, tmp_path, monkeypatch):
    """Caches of this session alone, and a temporary working folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(hf_home))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(hf_home / "unused"))
    monkeypatch.chdir(tmp_path)


def run(*args, **kwargs):
    return CliRunner().invoke(main, [str(arg) for arg in args], **kwargs)


def run_say(*args, **kwargs):
    return run("say", "-m", "tiny", *SHORT, *args, **kwargs)


@pytest.fixture
def no_networks(monkeypatch):
    """Fails the test if networks are loaded."""

    def load(*_, **__):
        raise AssertionError("networks were loaded")

    monkeypatch.setattr("bark_jax.checkpoints.load.load_networks", load)


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, check=False
    )


def test_help_loads_no_framework():
    calls = [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)]
    code = f"""
import sys
from bark_jax.cli import main
for call in {calls!r}:
    main(call, prog_name="bark-jax", standalone_mode=False)
print("loaded", [name for name in {HEAVY!r} if name in sys.modules])
"""
    result = python(code)
    assert result.stdout.splitlines()[-1] == "loaded []", result.stderr
    assert result.stderr == ""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_an_example(verb):
    assert f"  bark-jax {verb} " in run(verb, "-h").stdout or f"  bark-jax {verb}\n" in run(verb, "-h").stdout


def test_say_writes_audio_and_prints_its_name(tmp_path):
    result = run_say("Hello.", "-o", "hello.flac")
    assert result.exit_code == 0, result.output
    assert result.stdout == "hello.flac\n"
    samples, rate = soundfile.read(tmp_path / "hello.flac")
    assert rate == 24_000 and len(samples) == 15 * 320
    assert "model tiny, seed 3" in result.stderr
    assert "small demonstration" in result.stderr
    assert [line for line in result.stderr.splitlines() if line.endswith(" ...")] == [
        f"{stage} ..." for stage in ("semantic", "coarse", "fine", "codec")
    ]


def test_the_same_seed_says_the_same_and_a_default_name_counts_up(tmp_path):
    assert [run_say("Hello.").stdout for _ in range(3)] == ["bark.wav\n", "bark-2.wav\n", "bark-3.wav\n"]
    first, *others = ((tmp_path / f"bark{number}.wav").read_bytes() for number in ("", "-2", "-3"))
    assert others == [first, first]
    (tmp_path / "bark.wav").unlink()
    assert json.loads(run_say("Hello.", "--json").stdout)["output"] == "bark.wav"


def test_a_name_that_was_given_is_replaced(tmp_path):
    (tmp_path / "bark.wav").write_bytes(b"old")
    assert run_say("Hello.", "-o", "bark.wav").stdout == "bark.wav\n"
    assert [path.name for path in tmp_path.iterdir()] == ["bark.wav"]
    assert (tmp_path / "bark.wav").stat().st_size > 1000


def test_a_default_name_is_left_free_where_writing_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt), say_audio.free_name("bark.wav") as name:
        assert (tmp_path / name).is_file()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_the_seed_is_printed_when_none_is_given():
    result = run("say", "Hello.", "-m", "tiny", "--max-seconds", "0.2", "--json")
    seed = json.loads(result.stdout)["seed"]
    assert f"seed {seed}" in result.stderr
    assert 0 <= seed < 2**32


def test_json_describes_the_clip():
    result = run_say("Hello.", "--json", "-o", "a.wav", "-q")
    assert result.stderr == ""
    said = json.loads(result.stdout)
    assert said["text"] == "Hello." and said["model"] == "tiny" and said["voice"] is None
    assert said["sample_rate"] == 24_000 and said["output"] == "a.wav"
    assert said["lengths"] == {"semantic": 10, "frames": 15, "samples": 4800} and said["seconds"] == 0.2
    assert set(said["stats"]) == {"semantic", "coarse", "fine", "codec"}


def test_text_comes_from_stdin_and_audio_goes_to_stdout(tmp_path):
    result = run_say("-", "-o", "-", input="Grüße!\n".encode())
    assert result.exit_code == 0, result.stderr
    samples, rate = soundfile.read(io.BytesIO(result.stdout_bytes))
    assert rate == 24_000 and len(samples) == 4800
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("args", [["-"], []], ids=["dash", "none"])
def test_all_of_a_piped_text_is_read_however_many_bytes_a_letter_has(args, no_networks, monkeypatch):
    """900,000 letters of two bytes, and a mark of three at the end, which no cut at a round number of bytes keeps."""
    given = "я " * 449_999 + "я—"
    heard = []

    def prepare(text, *_):
        heard.append(text)
        raise InputError("heard")

    monkeypatch.setattr(say, "prepare", prepare)
    run_say(*args, "--long", input=given.encode())
    assert heard == [given]


def test_more_text_on_stdin_than_the_limit_is_refused(no_networks):
    assert_fails(run_say("-", input=b"a " * 50_001), 2, "more than 100,000 characters; add --long")
    assert_fails(run_say("--long", input=("ä " * 500_001).encode()), 2, "more than 1,000,000 characters; split it")


class Endless(io.RawIOBase):
    """An endless stream, like the output of `yes`; counts the bytes that are read."""

    def __init__(self):
        self.n_read = 0

    def readable(self):
        return True

    def readinto(self, buffer):
        self.n_read += len(buffer)
        buffer[:] = (b"y\n" * len(buffer))[: len(buffer)]
        return len(buffer)


def test_of_an_endless_stdin_no_more_is_read_than_the_limit(monkeypatch):
    endless = Endless()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(endless)))
    with pytest.raises(InputError, match="more than 100,000 characters"):
        say_text.read_stdin(is_long=False)
    assert endless.n_read < 150_000


def test_a_pipe_is_spoken_without_being_asked_for():
    assert json.loads(run_say("--json", input=b"hello\n").stdout)["text"] == "hello"


def test_a_text_that_begins_with_a_dash_gets_a_hint():
    assert_fails(run_say("-5 degrees"), 2, "No such option '-5'. A text that begins with a dash goes after --, as in:")
    result = run_say("--json", "--", "-5 degrees")
    assert json.loads(result.stdout)["text"] == "-5 degrees"


def test_all_of_a_long_text_is_checked_before_networks_are_loaded(no_networks):
    assert_fails(run_say("hello. " * 20 + "\x07", "--long"), 2, "control character")
    assert_fails(run_say("hello. " * 20 + "[MASK].", "--stream", "-o", "-"), 2, "[MASK]")


def test_a_long_text_may_begin_with_what_cannot_be_spoken_alone():
    result = run("say", "-m", "tiny", "--seed", "3", "--max-seconds", "0.2", "--long", "--json", "-q",
                 input=b"-" * 42 + b" hello there")  # fmt: skip
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--silence", "1"], "--silence has no effect: it is for longer texts; add --long"),
        (["--long", "--silence", "-1"], "silence_s is -1.0"),
        (["--max-tokens", "9"], "--max-tokens has no effect"),
        (["--language", "de"], "--language has no effect"),
        (["--voice-mode", "carry"], "--voice-mode has no effect"),
        (["--long", "--best-of", "2"], "--best-of has no effect: it is for one prompt"),
        (["--stream", "-o", "-", "--voice-mode", "carry"], "--voice-mode has no effect: it is for --long alone"),
    ],
)
def test_options_without_effect_are_refused(args, message, no_networks):
    assert_fails(run_say("Hello.", *args), 2, message)


def test_options_reach_the_call(monkeypatch):
    asked = []

    def asks(name):
        def call(*_, **ask):
            asked.append((name, {key: ask[key] for key in ask if key not in ("on_stage", "on_progress")}))
            raise InputError("asked")

        return call

    class Recorder:
        sample_rate = 24_000

        def __getattr__(self, name):
            return asks(name)

    cut = BarkProcessor.sentences

    def sentences(self, text, voice, **ask):
        asked.append(("sentences", ask))
        return cut(self, text, voice, **ask)

    monkeypatch.setattr(BarkProcessor, "sentences", sentences)
    monkeypatch.setattr(say_speech.Speech, "load", lambda _: Recorder())
    long = ["--silence", "1", "--max-tokens", "9", "--language", "de"]
    for args in (["--best-of", "2"], ["--long", *long, "--voice-mode", "carry"], ["--stream", "-o", "-", *long]):
        run("say", "Hello.", "-m", "tiny", *args)
    cutting = ("sentences", {"max_tokens": 9, "language": "de"})
    speaking = ("speak_long", {"silence_s": 1.0, "voice_mode": "carry", "devices": None})
    assert asked == [
        ("speak", {"best_of": 2, "devices": None}),
        cutting,
        speaking,
        cutting,
        ("stream_script", {"silence_s": 1.0}),
    ]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_sees_progress_within_stages(monkeypatch):
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    with Progress(is_quiet=False) as progress:
        progress("semantic")
        progress.on_progress("semantic", 32, 254)
        jax.jit(lambda x: x + 1234)(np.float32(1))
        progress("coarse")
        progress.on_progress("coarse", 1, 5)
    printed = stderr.getvalue()
    assert "32/254 tokens" in printed and "1/5 windows" in printed
    assert printed.index("254 tokens") < printed.index("semantic compiling, once") < printed.index("1/5")
    assert progress.on_progress is None


@pytest.mark.parametrize(("stderr", "is_quiet"), [(io.StringIO(), False), (Terminal(), True), (None, True)])
def test_progress_within_stages_is_for_a_terminal_alone(stderr, is_quiet, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stderr)
    with Progress(is_quiet=is_quiet) as progress:
        progress("semantic")
        assert progress.on_progress is None
    assert stderr is None or stderr.getvalue() == ("" if is_quiet else "semantic ...\n")


@pytest.mark.parametrize("is_disabled", [False, True])
def test_a_terminal_sees_the_bytes_of_a_conversion(is_disabled, monkeypatch):
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr("huggingface_hub.utils.are_progress_bars_disabled", lambda: is_disabled)
    with BytesBar() as bar:
        bar("semantic", 1_000_000, 4_000_000)
        bar("semantic", 4_000_000, 4_000_000)
        bar("fine_acoustics", 2_000, 2_000)
    printed = stderr.getvalue()
    assert (
        (not printed)
        if is_disabled
        else ("converting semantic" in printed and "4.00M" in printed and "2.00k" in printed)
    )


def test_the_package_runs_as_a_module():
    root = os.path.dirname(os.path.dirname(bark_jax.__file__))
    command = [sys.executable, "-m", "bark_jax", "say", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": root})
    assert result.returncode == 0 and result.stdout.startswith("Usage: python -m bark_jax say ")


def test_a_language_without_voices_is_another_error_than_a_model_without_voices(built_in, toy_folder):
    result = run("voices", "-m", built_in, "--language", "de")
    assert result.stdout == "" and "no voice that is listed as de; its voices are slt, rms" in result.stderr
    assert "has no voices of its own" in run("voices", "-m", toy_folder, "--language", "de").stderr


def test_a_failed_download_suggests_the_model_that_needs_no_network():
    result = run("download", "of-nobody/no-such-model")
    assert result.exit_code == 3 and "bark-jax download" not in result.stderr and "-m tiny" in result.stderr


def test_convert_knows_the_name_that_every_verb_takes(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    result = run("convert", "tiny", "copy")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "copy" / "semantic.safetensors").is_file()


def test_the_doctor_has_no_empty_heading(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("HF_", "JAX_", "XLA_", "BARK_JAX_", "CUDA_VISIBLE")):
            monkeypatch.delenv(name)
    monkeypatch.setattr("bark_jax.cli.doctor._attention", lambda: {"xla": "works"})
    assert run("doctor").stdout.endswith("settings\n  none\n")


def test_without_a_text_it_says_its_own(toy_folder):
    assert json.loads(run_say("--json").stdout)["text"] == tiny.EXAMPLE
    report = json.loads(run("say", "-m", toy_folder, *SHORT, "--json").stdout)
    assert report["text"] == say_text.DEFAULT_TEXT


def test_underscores_are_taken_for_dashes(tmp_path):
    result = run("say", "Hi.", "-m", "tiny", "--max_seconds", "0.2", "--save_tokens", "a.npz", "--top_k", "5", "-q")
    assert result.exit_code == 0, result.stderr
    with np.load(tmp_path / "a.npz") as tokens:
        assert {name: array.shape for name, array in tokens.items()} == {
            "semantic": (10,),
            "coarse": (2, 15),
            "fine": (8, 15),
        }


def test_a_saved_voice_can_be_spoken_with(tmp_path):
    assert run_say("Hi.", "--save-voice", "mine.npz", "--greedy").exit_code == 0
    assert Voice.load(tmp_path / "mine.npz", spaces=None).fine.shape == (8, 15)
    result = run_say("Hi.", "--voice", "mine.npz", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["voice"] == "mine.npz"


def test_a_plot_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    assert run_say("Hi.", "--plot", "hi.png").exit_code == 0
    assert (tmp_path / "hi.png").read_bytes().startswith(b"\x89PNG")
    assert_fails(run_say("Hi.", "--plot", "hi.wav"), 2, "--plot")


@pytest.mark.parametrize(
    "args, message",
    [
        (["-o", "hello.aiff"], ".aiff"),
        (["-o", "folder.wav"], "is a folder"),
        (["-o", "missing/hello.wav"], "create it first"),
        (["-o", "/proc/hello.wav"], "--output is '/proc/hello.wav': /proc/hello.wav cannot be written: /proc is not"),
        (["-o", f"{'x' * 300}/hello.wav"], "too long"),
        (["-o", f"{'x' * 240}.wav"], "--output is 'xxx"),
        (["-o", "a\0.wav"], "which no path can be"),
        (["-o", "file/hello.wav"], "create it first"),
        (["--plot", "/proc/plot.png"], "--plot is '/proc/plot.png': "),
        (["--plot", "x" * 10_000], "--plot is 'xxx"),
        (["--save-voice", "/proc/v.npz"], "--save-voice is '/proc/v.npz': "),
        (["--save-tokens", "x" * 10_000], "--save-tokens is 'xxx"),
        (["-m", "x" * 100_000], "there is no model 'xxx"),
        (["-o", "-", "--json"], "--json"),
        (["--save-voice", "voice.txt"], "ends in .npz"),
        (["--save-tokens", "missing/t.npz"], "create it first"),
        (["--temperature", "0"], "temperature"),
        (["--top-k", "0"], "top_k"),
        (["--greedy", "--fine-temperature", "0.5"], "--fine-temperature"),
        (["--seed", "-1"], "--seed"),
        (["--dtype", "int4"], "--dtype"),
        (["--nonsense"], "--nonsense"),
        (["--revision", "main", "-m", "."], "revision"),
    ],
)
def test_wrong_options_end_with_2_before_networks_are_loaded(args, message, tmp_path, no_networks):
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "file").touch()
    result = run_say("Hello.", *args)
    assert_fails(result, 3 if "no model" in message else 2, message)
    assert len(result.stderr) < 1500


def test_paths_that_are_not_writable_are_refused_before_anything_is_done(tmp_path, toy_folder, no_networks):
    (tmp_path / "file").touch()
    for path, message in (
        ("/proc/x", "/proc is not writable"),
        ("/proc/x/y", "/proc"),
        ("file/x", "file is not writable"),
    ):
        assert_fails(run("convert", toy_folder, path), 1, message)
    assert_fails(run("convert", toy_folder, ""), 2, "the folder to make is ''")


def test_a_folder_of_something_else_has_no_voices(tmp_path):
    assert_fails(run("voices", "-m", tmp_path), 3, "holds no model: neither a config.json nor")


@pytest.mark.parametrize("text", ["", " \n", "a" * 200, "\x07bell"])
def test_texts_that_cannot_be_spoken_end_with_2_before_networks_are_loaded(text, no_networks):
    assert_fails(run_say(text), 2, "text")


def test_bytes_on_stdin_that_are_no_text_end_with_2(no_networks):
    assert_fails(run_say("-", input=b"\xff\xfe"), 2, "UTF-8")


@pytest.mark.parametrize("model", ["of-nobody/no-such-model", "./missing"])
@pytest.mark.parametrize("call", [["say", "-m"], ["download"], ["parity"], ["verify"]])
def test_a_missing_model_ends_with_3(call, model):
    if call == ["parity"]:
        pytest.importorskip("torch")
        pytest.importorskip("transformers")
    assert_fails(run(*call, model), 3, model)


@pytest.mark.parametrize("voice", ["v2/en_speaker_6", "missing.npz"])
def test_a_missing_voice_ends_with_3_before_networks_are_loaded(voice, no_networks):
    assert_fails(run_say("Hello.", "--voice", voice), 3, voice)


def assert_fails(result, exit_code, message):
    assert result.exit_code == exit_code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert message in result.stderr
    assert result.stderr.splitlines()[-1].lower().startswith("error: ")  # click writes Error


@pytest.fixture
def failing(monkeypatch):
    """Makes `bark-jax voices` raise."""

    def fail_with(error):
        def open_voices(*_):
            raise error

        monkeypatch.setattr("bark_jax.cli.voices.open_voices", open_voices)

    return fail_with


@pytest.mark.parametrize(
    "error", [CheckpointError("bad\nweights"), UnsupportedError("bad weights"), OSError("bad weights")]
)
def test_a_failure_is_one_line_and_ends_with_1(failing, error):
    failing(error)
    result = run("voices")
    assert result.exit_code == 1
    assert result.output == "error: bad weights\n"


def test_a_warning_is_one_line(monkeypatch):
    def open_voices(*_):
        warnings.warn("not so\nsure", UserWarning, stacklevel=1)
        raise CheckpointError("bad weights")

    monkeypatch.setattr("bark_jax.cli.voices.open_voices", open_voices)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run("voices").stderr == "warning: not so sure\nerror: bad weights\n"


@pytest.mark.parametrize("args, environment", [(["--traceback"], {}), ([], {"BARK_JAX_TRACEBACK": "1"})])
def test_a_traceback_is_printed_on_request(failing, args, environment):
    failing(CheckpointError("bad weights"))
    for call in (["voices", *args], [*args, "voices"]):
        result = run(*call, env=environment)
        assert result.exit_code == 1
        assert "Traceback" in result.stderr and result.stderr.endswith("error: bad weights\n")


def test_ctrl_c_is_quiet_and_ends_with_130(failing):
    failing(KeyboardInterrupt())
    result = run("voices")
    assert (result.exit_code, result.output) == (130, "")


def test_a_broken_pipe_is_quiet(failing):
    failing(BrokenPipeError(32, "Broken pipe"))
    result = run("voices")
    assert (result.exit_code, result.output) == (1, "")


def test_play_hands_a_wav_to_a_player(tmp_path, monkeypatch):
    heard = tmp_path / "heard"
    fake = tmp_path / "bin" / "aplay"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nexec /bin/cp "$2" {heard}\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent))
    result = run_say("Hello.", "--play")
    assert result.exit_code == 0, result.output
    assert soundfile.info(heard).frames == 4800
    assert result.stdout == "" and not (tmp_path / "bark.wav").exists()


def test_play_without_a_player_names_them_before_networks_are_loaded(monkeypatch, no_networks):
    monkeypatch.setenv("PATH", "")
    result = run_say("Hello.", "--play")
    assert result.exit_code == 1
    assert all(name in result.stderr for name in player.PLAYERS)


def test_voices_are_listed_one_a_line_or_as_json():
    names = run("voices", "--language", "German").stdout.splitlines()
    assert len(names) == 20 and "v2/de_speaker_3" in names
    assert json.loads(run("voices", "--language", "de", "--json").stdout) == names
    assert len(run("voices").stdout.splitlines()) == 261


def test_a_model_without_voices_says_so():
    result = run("voices", "-m", "tiny")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "tiny has no voices" in result.stderr


def test_download_prints_folders(toy_folder):
    result = run("download", "tiny")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{toy_folder}\n"


def test_download_of_nothing_is_wrong_usage():
    assert run("download").exit_code == 2


def test_convert_is_the_converters_command(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # set by the command, and undone here
    assert "bark-jax convert suno/bark-small" in run("convert", "--help").stdout
    assert run("convert", tmp_path / "missing", "dst").exit_code == 3


def test_the_doctor_tells_no_secrets(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    result = run("doctor", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["versions"]["jax"] and report["devices"]["platform"]
    assert report["attention"]["xla"] == "works" and "decoding kernels, bfloat16" in report["attention"]
    assert report["settings"]["HF_TOKEN"] == "is set" and "hf_secret" not in result.output
    assert "compiled programs" in report["caches"]
    text = run("doctor").stdout
    assert "caches\n" in text and "hf_secret" not in text


@pytest.mark.parametrize(("has_instructions", "message"), [(True, "has instructions"), (False, "'bfloat16' is slow")])
def test_the_doctor_tells_what_a_cpu_is_slow_in(monkeypatch, has_instructions, message):
    monkeypatch.setattr("bark_jax.networks.linear.multiplies_bfloat16", lambda: has_instructions)
    assert message in json.loads(run("doctor", "--json").stdout)["devices"]["bfloat16 on the CPU"]


def test_the_doctor_goes_on_past_what_is_broken(monkeypatch):
    def fail(**_):
        raise RuntimeError("no driver")

    monkeypatch.setattr("jax.local_devices", fail)
    report = json.loads(run("doctor", "--json").stdout)
    assert report["devices"] == {"problem": "RuntimeError: no driver"}
    assert report["versions"]["flax"]


def test_the_settings_that_are_options_are_those_of_say_and_batch():
    options = {option.name: option for option in sampling_options(click.command()(lambda **_: None)).params}
    settings = [setting for setting in SETTINGS if setting.is_option]
    assert options.keys() - {"greedy"} == {
        name for setting in settings for name in setting.names[: None if setting.has_stage_options else 1]
    }
    for verb in (say.command, batch.command):
        params = {param.name: param for param in verb.params}
        assert all(params[setting.name].help == setting.help for setting in settings)
        assert all(
            params[setting.name].type.name == {float: "float", int: "integer"}[setting.kind] for setting in settings
        )


def test_choices_are_those_of_the_package():
    from bark_jax.checkpoints.load import DTYPES
    from bark_jax.networks.attention import IMPLEMENTATIONS

    choices = {param.name: param.type.choices for param in say.command.params if isinstance(param.type, click.Choice)}
    assert tuple(choices["dtype"]) == DTYPES
    assert tuple(choices["attn_implementation"]) == IMPLEMENTATIONS


LONG_TEXT = "The first sentence goes here and on and on. The second one follows it!"


def test_a_long_text_is_spoken_sentence_by_sentence():
    result = run_say(LONG_TEXT, "--long", "--json", "-o", "long.wav")
    report = json.loads(result.stdout)
    assert [sentence["text"] for sentence in report["sentences"]] == [
        "The first sentence goes here and on and on.",
        "The second one follows it!",
    ]
    assert report["seconds"] == pytest.approx(soundfile.info("long.wav").duration)


@pytest.fixture
def one_sentence_folder(toy_folder, tmp_path):
    folder = shutil.copytree(toy_folder, tmp_path / "one_sentence")
    config = json.loads((folder / GENERATION_CONFIG_FILE).read_text())
    (folder / GENERATION_CONFIG_FILE).write_text(json.dumps(config | {"sentences_per_prompt": 1}))
    return folder


def test_more_sentences_than_a_prompt_holds_are_spoken_as_a_long_text(one_sentence_folder):
    text = "Hello you. Yes."
    result = run("say", text, "-m", one_sentence_folder, *SHORT, "--json")
    assert result.exit_code == 0, result.stderr
    assert "spoken as with --long" in result.stderr
    assert [each["text"] for each in json.loads(result.stdout)["sentences"]] == ["Hello you.", "Yes."]
    assert "sentences" not in json.loads(run("say", "Yes.", "-m", one_sentence_folder, *SHORT, "--json").stdout)
    assert_fails(run("say", text, "-m", one_sentence_folder, *SHORT, "--best-of", 2), 2, "text has 2 sentences")
    assert_fails(run("say", text, "-m", one_sentence_folder, *SHORT, "--save-voice", "a.npz"), 2, "has 2 sentences")


def test_a_stream_is_a_wav_to_the_end_of_the_pipe():
    result = run_say(LONG_TEXT, "--stream", "-o", "-")
    assert result.exit_code == 0, result.stderr
    header, pcm = result.stdout_bytes[:44], np.frombuffer(result.stdout_bytes[44:], "<i2")
    assert header[:4] == b"RIFF" and header[8:16] == b"WAVEfmt " and header[36:40] == b"data"
    assert len(pcm) > 24_000 * 0.25 and np.abs(pcm).max() > 0


@pytest.mark.parametrize("args", [["--stream"], ["--stream", "-o", "a.wav"], ["--long", "--save-voice", "a.npz"]])
def test_long_and_stream_refuse_what_they_cannot_do(args):
    assert_fails(run_say("Hello.", *args), 2, "--stream")

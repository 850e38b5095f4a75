"""Failing machines: full disks, paths that are not writable, killed processes, concurrent conversions."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from bad_inputs.harness import ALL_NETWORKS_CALLS, ARGUMENT_CALLS, NETWORK_CALLS, listing, refused
from deadlines import HANG_S

from bark_jax import Bark, files
from bark_jax.audio.clip import Recording
from bark_jax.checkpoints import _plan, convert, find
from bark_jax.checkpoints.find import find_model
from bark_jax.checkpoints.model_folder import is_model_folder
from bark_jax.errors import BarkError, OutputError, UnsupportedError
from bark_jax.files import atomic_file, atomic_folder, remove_abandoned

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def checkpoint(toy_folder, tmp_path_factory):
    """A checkpoint in transformers' layout; never written to."""
    return convert(toy_folder, tmp_path_factory.mktemp("faults") / "bark", to="transformers")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache of converted models."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "bark_jax"


def fail_at(patch, name, call, error):
    """Makes the n-th call of a function of `os` fail."""
    real, calls = getattr(os, name), []

    def fail(*arguments, **options):
        calls.append(arguments)
        if len(calls) == call:
            raise error
        return real(*arguments, **options)

    patch.setattr(os, name, fail)


FAULTS = {
    "full": (errno.ENOSPC, "No space left on device; free some space"),
    "over its quota": (errno.EDQUOT, "free some space"),
    "read only": (errno.EROFS, "Read-only file system; name another path"),
    "another's": (errno.EACCES, "Permission denied; name another path"),
    "broken": (errno.EIO, "Input/output error"),
}


@pytest.mark.parametrize(("number", "message"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_conversion_onto_a_disk_that_fails_leaves_nothing(checkpoint, tmp_path, monkeypatch, call, number, message):
    with monkeypatch.context() as patch:
        fail_at(patch, call, 1, OSError(number, os.strerror(number)))
        with refused(OutputError, "dst cannot be written: ", message, calls=ALL_NETWORKS_CALLS, folder=tmp_path):
            convert(checkpoint, tmp_path / "dst")
    assert is_model_folder(convert(checkpoint, tmp_path / "dst"))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_onto_a_disk_that_fails_keeps_the_old_one(tmp_path, monkeypatch, voice, call):
    path = tmp_path / "voice.npz"
    voice.save(path)
    with monkeypatch.context() as patch:
        fail_at(patch, call, 1, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        with refused(OutputError, "voice.npz cannot be written: No space", folder=tmp_path):
            voice.save(path)


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path):
    with pytest.raises(ConnectionResetError), atomic_file(tmp_path / "x"):
        raise ConnectionResetError(errno.ECONNRESET, "reset")
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "y"):
        (tmp_path / "absent").read_bytes()
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux has such a folder")
def test_a_folder_of_the_system_is_refused_as_not_writable(tmp_path, voice, toy_folder):
    clip = Recording(np.zeros(9, np.float32), 24_000)
    model = Bark.from_pretrained(toy_folder)
    saves = {
        "x.wav": clip.save,
        "x.npz": voice.save,
        "x": model.save_pretrained,
        "y/x": model.save_pretrained,
        "p": model.processor.save_pretrained,
        "p/q/r": model.processor.save_pretrained,
    }
    with contextlib.suppress(UnsupportedError):  # plots are an extra
        clip.plot(tmp_path / "x.png")
        saves["x.png"] = clip.plot
    for name, save in saves.items():
        # A plot is drawn before its path is checked; nothing else is computed in vain.
        calls = NETWORK_CALLS if name == "x.png" else ARGUMENT_CALLS
        message = f"/proc/{name} cannot be written: /proc is not writable .*; name another"
        with refused(OutputError, message, calls=calls):
            save(f"/proc/{name}")


def test_a_cache_that_takes_no_files_says_what_to_set(checkpoint, cache):
    cache.parent.write_text("a file where the cache would be")
    with refused(OutputError, r"home is not writable \(it is a file\)", "set HF_HOME"):
        find_model(checkpoint)


def test_a_conversion_that_is_interrupted_leaves_nothing_and_works_again(checkpoint, cache, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_plan, "_check_finite", interrupt)
        with pytest.raises(KeyboardInterrupt):
            find_model(checkpoint)
    assert not cache.exists()
    assert is_model_folder(find_model(checkpoint))


def test_two_that_convert_at_once_get_the_same_folder(checkpoint, cache, monkeypatch):
    """Both have written all before either puts its folder in place."""
    barrier, found = threading.Barrier(2, timeout=HANG_S), []
    sync = files._sync_tree

    def meet(folder):
        sync(folder)
        barrier.wait()

    monkeypatch.setattr(files, "_sync_tree", meet)
    threads = [threading.Thread(target=lambda: found.append(find_model(checkpoint))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert len(found) == 2 and found[0] == found[1]
    assert is_model_folder(found[0])
    assert os.listdir(cache) == [found[0].name]


def test_what_a_killed_process_left_is_removed_when_it_is_old(tmp_path):
    for name, age_s in ((".dst.0123.partial", 2 * 86_400), (".dst.4567.partial", 60), (".other.89ab.partial", 10**6)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "semantic.safetensors").write_bytes(b"half")
        for path in (tmp_path / name / "semantic.safetensors", tmp_path / name):
            os.utime(path, (time.time() - age_s,) * 2)
    remove_abandoned(tmp_path / "dst")
    assert sorted(os.listdir(tmp_path)) == [".dst.4567.partial", ".other.89ab.partial"]


# In subprocesses

CONVERT = "import sys; from bark_jax.checkpoints import convert; convert(sys.argv[1], sys.argv[2])"
FIND = "import sys; from bark_jax.checkpoints.find import find_model; print(find_model(sys.argv[1]))"


def start(program, *arguments, **options):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | options.pop("env", {})
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_disk_that_takes_no_larger_files_leaves_nothing(checkpoint, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
    process = start(limit + CONVERT, checkpoint, tmp_path / "dst")
    _, stderr = process.communicate(timeout=HANG_S)
    assert process.returncode == 1 and "OutputError" in stderr and "File too large; free some space" in stderr
    assert listing(tmp_path) == []


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_no_half_model(checkpoint, tmp_path):
    for delay_s in (0.0, 0.02, 0.1, 0.3):
        process = start(CONVERT, checkpoint, tmp_path / "dst")
        while not list(tmp_path.glob(".dst.*.partial")) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=HANG_S)
        if (tmp_path / "dst").exists():  # it was done before
            assert is_model_folder(tmp_path / "dst")
            break
    assert is_model_folder(convert(checkpoint, tmp_path / "dst", overwrite=True))


@pytest.mark.slow
def test_four_processes_that_convert_at_once_get_the_same_folder(checkpoint, tmp_path):
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    processes = [start(FIND, checkpoint, env=environment) for _ in range(4)]
    outputs = [process.communicate(timeout=HANG_S) for process in processes]
    assert {process.returncode for process in processes} == {0}, outputs
    assert len({out for out, _ in outputs}) == 1
    assert len(os.listdir(tmp_path / "home" / "bark_jax")) == 1


def test_a_model_whose_path_is_a_file_is_refused(tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(BarkError, match="is a file"):
        find._once(tmp_path / "model", lambda target: atomic_folder(target).__enter__())

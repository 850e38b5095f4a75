"""Models in several processes: forked children, and processes of a multi-host cluster."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import bark_jax
from bark_jax._system import forks
from bark_jax.errors import UnsupportedError

ROOT = Path(__file__).parents[1]
HANG_S = 300

FORKED = """
import multiprocessing, sys, warnings
import jax
import bark_jax
from bark_jax.errors import UnsupportedError

def load(folder):
    return bark_jax.BarkModel.from_pretrained(folder).sample_rate

warnings.simplefilter("ignore")
fork = multiprocessing.get_context("fork")
if sys.argv[2] == "after":
    model = bark_jax.BarkModel.from_pretrained(sys.argv[1])
with fork.Pool(1) as pool:
    try:
        print("loaded", pool.apply_async(load, sys.argv[1:2]).get(timeout=250))
    except UnsupportedError as error:
        print("refused", error)
"""

CLUSTER = """
import sys
import jax
address, number, folder = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.distributed.initialize(address, num_processes=2, process_id=int(number))
from bark_jax.generation.engine import Engine
from bark_jax.batch.job import choose_devices
from bark_jax.errors import InputError
from bark_jax.model import BarkModel

assert len(jax.devices()) == 2 and len(jax.local_devices()) == 1
model = BarkModel.from_pretrained(folder)
engine = Engine(model)
found = [engine._programs._mesh.devices[0], *choose_devices(None), *jax.tree.leaves(model.semantic)[0].devices()]
model.enable_cpu_offload()
found += [model._accelerator, *jax.tree.leaves(model.semantic)[0].devices()]
other = next(device for device in jax.devices() if device.process_index != jax.process_index())
for refused in (lambda: model.enable_cpu_offload(other), lambda: Engine(model, devices=[other])):
    try:
        refused()
    except InputError:
        found.append(jax.local_devices()[0])
    except Exception:
        pass
print(number, *[device.process_index for device in found])
"""


def start(code, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT / "tests"
    )


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_child_that_was_forked_after_jax_had_run_is_refused(toy_folder, when):
    out, err = start(FORKED, toy_folder, when).communicate(timeout=HANG_S)
    assert out.startswith("loaded 24000" if when == "before" else "refused process"), err
    assert when == "before" or 'get_context("spawn")' in out


def test_whatever_runs_on_jax_is_refused_there(monkeypatch, toy_model, toy_folder):
    bark = bark_jax.Bark(toy_model, bark_jax.BarkProcessor.from_pretrained(toy_folder))
    monkeypatch.setattr(forks, "_has_run_before", True)
    calls = (
        lambda: bark_jax.BarkModel.from_pretrained("tiny"),
        lambda: bark_jax.Bark.from_pretrained("tiny"),
        lambda: toy_model.generate([[5, 6]], seed=0),
        lambda: toy_model.generate_rows([]),
        lambda: toy_model.semantic([[5]]),
        lambda: toy_model.fine_acoustics(2, [[[5] * 8]]),
        lambda: toy_model.codec_model.decode([[[5]]]),
        lambda: toy_model.codec_model.encode([[[0.5]]]),
        lambda: toy_model.enable_cpu_offload(),
        lambda: bark.generate("Hi.", seed=0),
    )
    for call in calls:
        with pytest.raises(UnsupportedError, match="was forked from one in which JAX had run"):
            call()


def test_processes_of_a_cluster_use_their_own_devices(toy_folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    both = [start(CLUSTER, address, number, toy_folder) for number in range(2)]
    for number, process in enumerate(both):
        out, err = process.communicate(timeout=HANG_S)
        assert out.split() == [str(number)] * len(out.split()) and len(out.split()) == 8, err


def test_no_code_takes_a_device_of_all_processes():
    sources = [path for name in ("bark_jax", "converters", "benchmarks") for path in (ROOT / name).rglob("*.py")]
    assert len(sources) > 50
    assert not [path for path in sources if re.search(r"\bjax\.devices\(", path.read_text())]

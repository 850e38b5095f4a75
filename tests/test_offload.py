"""Offloading, with simulated devices: one is the host, another the accelerator."""

import os
import subprocess
import sys

import numpy as np
from compilations import xla_flags

ASK = dict(input_ids=[[5, 9, 12]], seed=3, max_new_tokens=12, allow_early_stop=False)

SCRIPT = """
import sys, jax, numpy as np
from bark_jax.generation import runner
from bark_jax.model import BarkModel
from test_offload import ASK

model = BarkModel.from_pretrained(sys.argv[1])
accelerator = jax.devices()[1]
bytes_there = lambda: sum(array.nbytes for array in jax.live_arrays() if array.devices() == {accelerator})
model.enable_cpu_offload(accelerator)
held, run = [], runner.run_coarse
runner.run_coarse = lambda *args: (held.append(bytes_there()), run(*args))[1]
np.testing.assert_array_equal(np.load(sys.argv[2]), np.asarray(model.generate(**ASK)))
assert held == [0], f"the semantic network was still there: {held}"
assert bytes_there() == 0
network = model.on_accelerator(model.semantic)
assert {device for leaf in jax.tree.leaves(network) for device in leaf.devices()} == {accelerator}
assert {device for leaf in jax.tree.leaves(model.semantic) for device in leaf.devices()} == {jax.devices("cpu")[0]}
print("done")
"""


def test_networks_are_on_the_accelerator_one_at_a_time_and_sound_the_same(toy_model, toy_folder, tmp_path):
    np.save(tmp_path / "plain.npy", toy_model.generate(**ASK))
    environment = os.environ | {
        "XLA_FLAGS": xla_flags(2),
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-c", SCRIPT, toy_folder, tmp_path / "plain.npy"]
    result = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == "done", result.stderr[-2000:]

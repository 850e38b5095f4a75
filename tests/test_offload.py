"""Offloading, with simulated devices: one is the host, another the accelerator."""

import os
import subprocess
import sys

SCRIPT = """
import jax, numpy as np
from bark_jax.model import BarkModel

model = BarkModel.from_pretrained("tiny")
ask = dict(input_ids=[[5, 9, 12]], seed=3, max_new_tokens=12, allow_early_stop=False)
plain = np.asarray(model.generate(**ask))
accelerator = jax.devices()[1]
bytes_there = lambda: sum(array.nbytes for array in jax.live_arrays() if array.devices() == {accelerator})
model.enable_cpu_offload(accelerator)
held, run = [], model.run_coarse
model.run_coarse = lambda *args: (held.append(bytes_there()), run(*args))[1]
offloaded = np.asarray(model.generate(**ask))
np.testing.assert_array_equal(plain, offloaded)
assert held == [0], f"the semantic network was still there: {held}"
assert bytes_there() == 0
network = model.on_accelerator(model.semantic)
assert {device for leaf in jax.tree.leaves(network) for device in leaf.devices()} == {accelerator}
assert {device for leaf in jax.tree.leaves(model.semantic) for device in leaf.devices()} == {jax.devices("cpu")[0]}
print("done")
"""


def test_networks_are_on_the_accelerator_one_at_a_time_and_sound_the_same():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    result = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == "done", result.stderr[-2000:]

"""Strict numerics for every test: full float32 products, and no broadcasting that changes the rank."""

import os

# No test may reach for the network; set before the Hub client reads it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import numpy as np
import pytest

jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def rng():
    return np.random.default_rng(0)

"""Compiled programs, kept on disk from one process to the next, beside the converted models.

JAX has one cache a process, so whatever else a program compiles is kept there too.
"""

import os
import tempfile
from pathlib import Path

from bark_jax.checkpoints.find import cache_folder

VARIABLE = "BARK_JAX_KEEP_COMPILED"  # 0 switches it off
MIN_COMPILE_SECONDS = 0.5  # JAX's default, 1 s, leaves out programs that a run on a fast machine waits for


def compiled_folder() -> Path:
    """Where compiled programs are kept: the folder that JAX is set to, or one beside the converted models."""
    return Path(_jaxs_folder() or cache_folder() / "compiled")


def keep_compiled_programs(*, wanted: bool = True) -> bool:
    """Lets JAX keep what it compiles, so that the next process starts faster.

    A folder that JAX is set to already, by JAX_COMPILATION_CACHE_DIR or by jax.config, stays, with its own settings.

    Returns:
      Whether programs are kept: not where BARK_JAX_KEEP_COMPILED is 0, `wanted` is false or the folder takes no files.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    if _jaxs_folder():
        return True
    if not wanted or os.environ.get(VARIABLE) == "0":
        return False
    folder = compiled_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
    compilation_cache.reset_cache()  # JAX looks for the folder once, when it first compiles
    return True


def _jaxs_folder() -> str | None:
    """The folder that JAX keeps programs in already."""
    import jax

    return jax.config.jax_compilation_cache_dir  # also from JAX_COMPILATION_CACHE_DIR

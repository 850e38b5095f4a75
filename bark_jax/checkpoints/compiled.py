"""JAX's persistent compilation cache, on disk beside the converted models.

JAX has one cache a process, so programs that the calling code compiles are kept there too.
"""

import os
import tempfile
from pathlib import Path

from bark_jax.checkpoints.find import cache_folder

VARIABLE = "BARK_JAX_KEEP_COMPILED"  # environment variable; 0 switches the cache off
MIN_COMPILE_SECONDS = 0.5  # JAX's default, 1 s, skips programs that a fast machine compiles in less, each run again


def compiled_folder() -> Path:
    """The folder of compiled programs: that of JAX's own setting, or one beside the converted models."""
    return Path(_jaxs_folder() or cache_folder() / "compiled")


def keep_compiled_programs(*, wanted: bool = True) -> bool:
    """Switches JAX's persistent compilation cache on, so that the next process starts faster.

    If JAX has a cache folder already, by JAX_COMPILATION_CACHE_DIR or jax.config, that and its settings stay.

    Returns:
      Whether programs are kept. False where `wanted` is false, BARK_JAX_KEEP_COMPILED is 0, or the folder is not
      writable.
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
    compilation_cache.reset_cache()  # JAX reads the setting once, at its first compilation, which may have been earlier
    return True


def _jaxs_folder() -> str | None:
    """The cache folder that JAX has been set to; None if none."""
    import jax

    return jax.config.jax_compilation_cache_dir  # also from JAX_COMPILATION_CACHE_DIR

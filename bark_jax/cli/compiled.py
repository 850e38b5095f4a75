"""Compiled programs, kept on disk from one run to the next."""

import os
import tempfile
from pathlib import Path

MIN_COMPILE_SECONDS = 0.5  # JAX's default, 1 s, leaves out programs that a run on a fast machine waits for


def compiled_folder() -> Path:
    """Where compiled programs are kept: JAX_COMPILATION_CACHE_DIR, or a folder beside the converted models."""
    from bark_jax.checkpoints.find import cache_folder

    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    return Path(given) if given else cache_folder() / "compiled"


def keep_compiled_programs() -> bool:
    """Lets JAX keep what it compiles, so that the next process starts faster. False where the folder takes no files."""
    import jax

    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):  # JAX has read it, and its own settings hold
        return True
    folder = compiled_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
    return True

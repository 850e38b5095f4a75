"""`bark-jax doctor`: reports installed versions, JAX's devices, caches, and which attention works."""

import contextlib
import json
import os
import platform
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bark_jax._system.versions import installed_versions
from bark_jax.cli.group import Verb
from bark_jax.cli.options import json_option

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "safetensors", "tokenizers", "huggingface-hub", "torch", "transformers")
HEAD_SIZE = 64  # of one attention head in both published models, suno/bark and suno/bark-small
SECRETS = ("TOKEN", "KEY", "SECRET", "PASSWORD")  # variables with such a word are reported without their value

EXAMPLES = """\b
Examples:
  bark-jax doctor
  bark-jax doctor --json > report.json
"""


@click.command("doctor", cls=Verb, epilog=EXAMPLES, short_help="Report versions, devices, caches and settings.")
@json_option
def command(as_json: bool) -> None:
    """Report versions, devices, attention, caches and settings, for a bug report or a slow machine.

    Attention is tried on this machine. Settings are the environment variables that JAX, the Hub and this package read.
    """
    sections = {
        "versions": _versions,
        "devices": _devices,
        "attention": _attention,
        "caches": _caches,
        "settings": _settings,
    }
    report = {title: _examine(section) for title, section in sections.items()}
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    for title, values in report.items():
        click.echo(title)
        for name, value in values.items() or [("none", "")]:
            click.echo(f"  {name:24} {value}".rstrip())


def _examine(section: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns a section of the report, or its error as `problem`: the other sections are still reported."""
    try:
        return section()
    except Exception as error:  # a broken driver or plugin raises many types of errors, and is what doctor looks for
        return {"problem": f"{type(error).__name__}: {error}"}


def _versions() -> dict[str, str]:
    from bark_jax import __version__

    found = {"bark_jax": __version__, "Python": platform.python_version(), "system": platform.platform()}
    return found | installed_versions(PACKAGES)


def _devices() -> dict[str, Any]:
    import jax

    from bark_jax.networks.linear import multiplies_bfloat16
    from bark_jax.networks.platform import resolve_platform

    found = {
        "platform": resolve_platform(),
        "CPU cores": os.cpu_count(),
        "bfloat16 on the CPU": _describe_bfloat16(multiplies_bfloat16()),
    }
    for device in jax.local_devices():
        found[str(device)] = device.device_kind
        if limit := (device.memory_stats() or {}).get("bytes_limit"):
            found[str(device)] += f", {_in_words(limit)} for JAX"
    return found


def _describe_bfloat16(has_instructions: bool) -> str:
    if has_instructions:
        return "has instructions"
    return "no instructions found: dtype 'bfloat16' is slow, and 'int8' computes prompts and codes in float32"


def _attention() -> dict[str, str]:
    from bark_jax.networks.platform import resolve_platform
    from bark_jax.networks.probes import find_cudnn_obstacle, find_kernel_obstacle

    found, platform = {"xla": "works"}, resolve_platform()
    for name, find in (("cudnn", find_cudnn_obstacle), ("decoding kernels", find_kernel_obstacle)):
        for dtype in ("bfloat16", "float16"):
            obstacle = find(platform, dtype, HEAD_SIZE)
            found[f"{name}, {dtype}"] = "works" if obstacle is None else f"does not work: {obstacle}"
    return found


def _caches() -> dict[str, str]:
    from huggingface_hub import constants

    from bark_jax.checkpoints.compiled import VARIABLE, compiled_folder, keep_compiled_programs
    from bark_jax.checkpoints.find import cache_folder

    is_kept = keep_compiled_programs()
    folders = {
        "downloads": Path(constants.HF_HUB_CACHE),
        "converted models": cache_folder(),
        "compiled programs": compiled_folder(),
    }
    found = {name: f"{folder} ({_in_words(_size(folder))})" for name, folder in folders.items()}
    if not is_kept:
        why = f"{VARIABLE} is 0" if os.environ.get(VARIABLE) == "0" else "not writable"
        found["compiled programs"] += f", {why}: every run compiles again"
    return found


def _settings() -> dict[str, str]:
    prefixes = ("HF_", "JAX_", "XLA_", "BARK_JAX_", "CUDA_VISIBLE_DEVICES")
    names = sorted(name for name in os.environ if name.startswith(prefixes))
    return {name: "is set" if any(word in name for word in SECRETS) else os.environ[name] for name in names}


def _size(folder: Path) -> int:
    """Bytes of the files below a folder. Links count 0: those of the Hub's cache point to files of the same folder."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # another process deletes files meanwhile
                status = os.lstat(os.path.join(root, name))
                total += 0 if stat.S_ISLNK(status.st_mode) else status.st_size
    return total


def _in_words(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"

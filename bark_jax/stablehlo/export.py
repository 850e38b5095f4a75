"""`bark_jax.export`: writes a model's stages as StableHLO programs, with their weights, into a folder."""

import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bark_jax._system.own_jax_config import under_own_config
from bark_jax.bark import Bark
from bark_jax.checkpoints.model_folder import write_network
from bark_jax.errors import InputError, OutputError, UnsupportedError, quoted
from bark_jax.files import atomic_folder, check_destination, is_inner_path
from bark_jax.generation.rows import MAX_ROWS
from bark_jax.generation.settings import check_count, check_flag
from bark_jax.networks.attention import for_platform
from bark_jax.stablehlo import manifest
from bark_jax.stablehlo.lowering import (
    ATTENTION,
    PLATFORMS,
    TRANSPOSED,
    Lowered,
    Target,
    check_network,
    has_transposed,
    lower,
    network_for,
    weights_of,
)
from bark_jax.stablehlo.programs import Program, programs_of
from bark_jax.stablehlo.voices import NO_VOICE, voice_arrays
from bark_jax.text.tokenizer import TOKENIZER_FILE
from bark_jax.voices.library import resolve_voice
from bark_jax.voices.voice import Voice

KIND = "programs"  # of folder, in `files.MARKERS`
SCRIPT = Path(__file__).with_name(manifest.SCRIPT_FILE)

OnStep = Callable[[str], None]  # called with a line about what comes next


@under_own_config
def export(
    model: str | os.PathLike[str] | Bark,
    dst: str | os.PathLike[str],
    *,
    platforms: Sequence[str] | str,
    rows: int | None = None,
    voices: Sequence[Any] | Mapping[str, Any] = (),
    dtype: Any = None,
    attn_implementation: str = "xla",
    decoding_copy: bool = True,
    revision: str | None = None,
    overwrite: bool = False,
    on_step: OnStep | None = None,
) -> Path:
    """Writes the stages of a model as StableHLO programs, which run by JAX alone, into the folder `dst`, atomically.

        bark_jax.export("suno/bark-small", "exported", platforms=["tpu", "cuda"], voices=["v2/en_speaker_6"])

    No device of these platforms is needed. With the folder come its README.md, which describes every input and output,
    and speak.py, which runs the programs without bark_jax. Programs draw the tokens that `Bark.generate` draws for the
    same seed, with attn_implementation "xla" and as many rows.

    Args:
      model: a name or folder, as for `Bark.from_pretrained`, or a loaded model, which may be offloaded.
      dst: the folder to make.
      platforms: one or several of "cpu", "cuda", "rocm" and "tpu"; each has its own programs.
      rows: number of rows of a batch; None, any number. With one or two rows a CPU decodes faster by programs that are
        made for them.
      voices: voices to write along: names and .npz files, or a dict of voices by name, in the forms that
        `Bark.generate` takes.
      dtype: as for `Bark.from_pretrained`.
      attn_implementation: "xla", or "cudnn" for cuDNN's kernels in the programs for cuda. JAX does not promise that
        later versions run their calls, so its check of them is disabled (`jax.export.DisabledSafetyCheck`).
      decoding_copy: as for `Bark.from_pretrained`.
      revision: a branch, tag or commit of the Hub repository.
      overwrite: replaces an export that is in `dst`.
      on_step: called with a line about each step, the first with the size of what is written.

    Returns:
      The path of the new folder.

    Raises:
      InputError: an argument has no such value, or `dst` exists.
      ModelNotFoundError, VoiceNotFoundError: there is no such model or voice.
      CheckpointError, ConfigError, VoiceError: a file is damaged.
      UnsupportedError: the model cannot be exported so: cuDNN's attention where it cannot work, int8 weights for any
        number of rows on a CPU, a codec that looks ahead. Or the package flatbuffers is not installed.
      OutputError: the disk is full, or `dst` is not writable.
    """
    target = _check_target(platforms, rows, attn_implementation)
    dst = check_destination(dst, overwrite=check_flag("overwrite", overwrite), kind=KIND)
    _check_flatbuffers()
    on_step = _as_callback(on_step)
    bark = _open(model, target, dtype=dtype, revision=revision, decoding_copy=decoding_copy)
    spaces = bark.model.spaces
    arrays = {NO_VOICE: voice_arrays(None, spaces)}
    arrays |= {name: voice_arrays(voice, spaces) for name, voice in _find_voices(bark, voices).items()}
    programs = programs_of(spaces, bark.model.generation_config, bark.model.config.codec_config)
    for program in programs.values():
        check_network(getattr(bark.model, program.network), target)
    _check_room(bark, programs, target, dst, on_step)
    with atomic_folder(dst, overwrite=overwrite, kind=KIND) as made:
        files = {
            stage: _write_stage(bark, stage, program, target, made, on_step) for stage, program in programs.items()
        }
        for name, inputs in arrays.items():
            path = made / "voices" / f"{name}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_network(path, inputs, inputs.items())
        label = Path(model).name if isinstance(model, (str, os.PathLike)) else "bark"
        _write_description(bark, label, programs, files, target, made)
    return dst


def _check_target(platforms: Any, rows: Any, attention: Any) -> Target:
    names = (platforms,) if isinstance(platforms, str) else platforms
    if not isinstance(names, (list, tuple)) or not names:
        raise InputError(f"platforms is {quoted(platforms)}, expected a list of {', '.join(PLATFORMS)}")
    for name in names:
        if not isinstance(name, str) or name not in PLATFORMS:
            hint = "; a gpu is cuda (NVIDIA) or rocm (AMD)" if name == "gpu" else ""
            raise InputError(f"platform is {quoted(name)}, expected one of {', '.join(PLATFORMS)}{hint}")
    if attention not in ATTENTION:
        raise InputError(f"attn_implementation is {quoted(attention)}, expected {' or '.join(ATTENTION)}")
    rows = None if rows is None else check_count("rows", rows, 1, MAX_ROWS)
    return Target(tuple(dict.fromkeys(names)), rows, attention)


def _as_callback(on_step: OnStep | None) -> OnStep:
    if on_step is not None and not callable(on_step):
        raise InputError(f"on_step is {quoted(on_step)}, expected a function of a line of text")
    return on_step or (lambda line: None)


def _check_flatbuffers() -> None:
    if importlib.util.find_spec("flatbuffers") is None:
        raise UnsupportedError("JAX writes programs with flatbuffers: pip install 'bark-jax[export]'")


def _open(model: Any, target: Target, *, dtype: Any, revision: str | None, decoding_copy: bool) -> Bark:
    if not isinstance(model, Bark):
        # On a CPU int8 weights are made beside float32 ones, elsewhere beside bfloat16 ones.
        platform = "cpu" if "cpu" in target.platforms else PLATFORMS[target.platforms[0]]
        return Bark.from_pretrained(
            model,
            dtype=dtype,
            revision=revision,
            decoding_copy=decoding_copy,
            platform=platform,
            attn_implementation="xla",
        )
    for name, value, default in (("dtype", dtype, None), ("revision", revision, None)):
        if value is not default:
            raise InputError(f"{name} is {quoted(value)}, and the model is loaded already; give it when it is loaded")
    if not decoding_copy:
        raise InputError("decoding_copy is False, and the model is loaded already; give it when it is loaded")
    return model


def _find_voices(bark: Bark, voices: Any) -> dict[str, Voice]:
    """Loads voices by the names that their files will have."""
    if not isinstance(voices, (list, tuple, Mapping)):
        raise InputError(f"voices is {quoted(voices)}, expected a list of names and .npz files, or voices by name")
    named = voices.items() if isinstance(voices, Mapping) else ((None, given) for given in voices)
    found: dict[str, Voice] = {}
    for chosen_name, given in named:
        voice = resolve_voice(given, bark.processor.library, bark.model.spaces)
        name = _voice_name(given, voice) if chosen_name is None else chosen_name
        if voice is None or name is None or not is_inner_path(name) or name == NO_VOICE or name in found:
            raise InputError(
                f"voices has {quoted(given)} under the name {quoted(name)}, expected voices with different names that "
                f"are file names, other than {NO_VOICE!r}; give a dict of voices by name"
            )
        found[name] = voice
    return found


def _voice_name(given: Any, voice: Voice | None) -> str | None:
    if voice is not None and voice.name is not None:
        return voice.name
    return Path(given).stem if isinstance(given, (str, os.PathLike)) else None


def _check_room(bark: Bark, programs: Mapping[str, Program], target: Target, dst: Path, on_step: OnStep) -> None:
    """Reports the size of the weights. Raises OutputError where the disk has no room for them."""
    n_bytes = sum(_weight_bytes(getattr(bark.model, program.network), bark, target) for program in programs.values())
    on_step(f"{n_bytes / 1e6:,.1f} MB of weights, and programs for {', '.join(target.platforms)}, to {dst}")
    folder = next(parent for parent in (dst, *dst.parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise OutputError(
            f"{dst} takes {n_bytes / 1e6:,.1f} MB, and its disk has {free / 1e6:,.1f} MB free; free some space, or "
            "name another path"
        )


def _weight_bytes(network: Any, bark: Bark, target: Target) -> int:
    weights = weights_of(network, bark.model.spaces)
    copied = any(has_transposed(for_platform(network, PLATFORMS[each]), target.n_rows) for each in target.platforms)
    # The copy has every kernel of a causal network, and nothing else.
    return sum(array.nbytes * (1 + (copied and name.endswith(".kernel"))) for name, array in weights.items())


def _write_stage(
    bark: Bark, stage: str, program: Program, target: Target, made: Path, on_step: OnStep
) -> dict[str, manifest.StageFiles]:
    network = getattr(bark.model, program.network)
    files: dict[str, manifest.StageFiles] = {}
    weights: dict[str, dict[str, jax.Array]] = {}
    for platform in target.platforms:
        on_step(f"{stage} for {platform}")
        lowered = lower(network_for(network, platform, target), program, platform, target.rows, bark.model.spaces)
        name = f"{stage}.{platform}.jax_export"
        (made / name).write_bytes(lowered.exported.serialize(vjp_order=0))
        parts = _by_file(stage, lowered)
        files[platform] = manifest.StageFiles(name, tuple(parts), lowered.custom_calls)
        weights |= parts
    for name, arrays in weights.items():
        write_network(made / name, arrays, ((key, np.asarray(array)) for key, array in arrays.items()))
    return files


def _by_file(stage: str, lowered: Lowered) -> dict[str, dict[str, jax.Array]]:
    """The weights by file: programs of other platforms share the first, and not all of them read the second layout."""
    plain = {name: array for name, array in lowered.weights.items() if not name.endswith(TRANSPOSED)}
    transposed = {name: array for name, array in lowered.weights.items() if name.endswith(TRANSPOSED)}
    parts = {f"{stage}.safetensors": plain, f"{stage}{TRANSPOSED}.safetensors": transposed}
    return {file: arrays for file, arrays in parts.items() if arrays}


def _write_description(
    bark: Bark, label: str, programs: Mapping[str, Program], files: manifest.Files, target: Target, made: Path
) -> None:
    bark.processor.tokenizer.save(str(made / TOKENIZER_FILE))
    content = manifest.manifest(programs, files, target.rows, bark.sample_rate)
    (made / manifest.MANIFEST_FILE).write_text(manifest.as_json(content), encoding="utf-8")
    readme = manifest.readme(label, programs, files, target.rows)
    (made / manifest.README_FILE).write_text(readme, encoding="utf-8")
    shutil.copyfile(SCRIPT, made / SCRIPT.name)

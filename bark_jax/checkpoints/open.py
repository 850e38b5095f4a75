"""Finds out what SRC is: a folder or file of a known layout, or a model on the Hub."""

import os
from pathlib import Path

from bark_jax.checkpoints import snapshots
from bark_jax.checkpoints.layouts.encodec import open_encodec_file
from bark_jax.checkpoints.layouts.own import open_own
from bark_jax.checkpoints.layouts.suno import FILES, has_suno_files, open_single, open_suno
from bark_jax.checkpoints.layouts.transformers import open_transformers
from bark_jax.checkpoints.model_folder import is_model_folder, list_names
from bark_jax.checkpoints.plan import NetworkSource
from bark_jax.checkpoints.sources import Source
from bark_jax.config import CONFIG_FILE, BarkGenerationConfig
from bark_jax.errors import CheckpointError, InputError, ModelNotFoundError, quoted

LAYOUTS = (
    "a transformers folder (config.json and weights) of a Bark or of one of its networks, Suno's text.pt, "
    "coarse.pt and fine.pt, an EnCodec's .th file, or a folder that this program wrote"
)
CODEC_PATTERN = "encodec_24khz-*.th"
CODEC_HINT = "give one by codec (--codec), for instance --codec facebook/encodec_24khz"


def open_source(
    src: str | os.PathLike,
    *,
    size: str | None = None,
    codec: str | os.PathLike | None = None,
    revision: str | None = None,
) -> Source:
    """Opens a checkpoint of any layout.

    Args:
      src: a folder, a file, or a Hub id such as "suno/bark-small".
      size: which of Suno's two sets of files to take, "small" or "large".
      codec: where the codec of Suno's files comes from: a folder, a `.th` file or a Hub id.
      revision: of a Hub id: a branch, tag or commit.

    Raises:
      ModelNotFoundError: there is nothing, or a part is missing.
      CheckpointError, ConfigError: it cannot be used.
    """
    if size is not None and (not isinstance(size, str) or size not in FILES):
        raise InputError(f"size is {quoted(size)}, expected {' or '.join(FILES)}")
    path, label = _locate(src, size, revision)
    if path.is_dir() and not is_model_folder(path):  # which has a manifest of its own
        snapshots.check_blobs(path)
    is_suno = path.is_dir() and has_suno_files(path) and (size is not None or not (path / CONFIG_FILE).is_file())
    if is_suno:
        return open_suno(path, label, size, _open_codec(path, codec))
    if size is not None or codec is not None:
        raise InputError(f"{src} is not a folder of Suno's files, the only ones that need size or codec")
    return _open_folder(path, label) if path.is_dir() else _open_file(path, label)


def _locate(src: str | os.PathLike, size: str | None, revision: str | None) -> tuple[Path, str]:
    """The path of `src` on this machine, and what to call it."""
    if not isinstance(src, (str, os.PathLike)) or not isinstance(os.fspath(src), str):
        raise InputError(f"a checkpoint is named by a folder, a file or a Hub id, not by {quoted(src)}")
    path = Path(src)
    if os.path.exists(path):  # False for a name that no system takes, where Path.exists raises
        if revision is not None:
            raise InputError(f"{src} is on this machine; a revision is for Hub ids")
        return path, snapshots.snapshot_name(path) or path.resolve().name
    if snapshots.is_hub_id(str(src)):
        folder = snapshots.fetch(str(src), revision=revision, size=size)
        return folder, snapshots.snapshot_name(folder) or str(src)
    raise ModelNotFoundError(
        f"{quoted(str(src), 400)} does not exist. Expected {LAYOUTS}, or a Hub id such as suno/bark-small"
    )


def _open_folder(folder: Path, label: str) -> Source:
    if is_model_folder(folder):
        return open_own(folder, label)
    if (folder / CONFIG_FILE).is_file():
        return open_transformers(folder, label)
    codecs = sorted(folder.glob("*.th"))
    if len(codecs) == 1:
        return open_encodec_file(codecs[0], label)
    if codecs:
        names = list_names(path.name for path in codecs)
        raise ModelNotFoundError(f"{folder} holds several codecs, {names}; give the path of one of them")
    raise ModelNotFoundError(f"{folder} holds no model that is known here. Expected {LAYOUTS}")


def _open_file(path: Path, label: str) -> Source:
    if path.suffix == ".th":
        return open_encodec_file(path, label)
    if path.suffix == ".pt":
        return open_single(path, label)
    raise CheckpointError(f"{path} is of no known kind by its name. Expected {LAYOUTS}; give the folder, not its file")


def _open_codec(folder: Path, codec: str | os.PathLike | None) -> NetworkSource:
    """The codec that was asked for, else the one beside Suno's files."""
    if codec is None:
        beside = sorted(folder.glob(CODEC_PATTERN))
        if not beside:
            raise ModelNotFoundError(
                f"Suno's files bring no codec, and no {CODEC_PATTERN} lies in {folder}; {CODEC_HINT}"
            )
        codec = beside[0]
    networks = open_source(codec).networks
    if "codec_model" not in networks:
        raise CheckpointError(f"{codec} holds no codec but {', '.join(networks)}; {CODEC_HINT}")
    rate, expected = networks["codec_model"].config.sampling_rate, BarkGenerationConfig.suno().sample_rate
    if rate != expected:
        raise CheckpointError(
            f"{codec} is a codec of {rate:,} Hz, and Suno's Bark has codes of {expected:,} Hz; {CODEC_HINT}"
        )
    return networks["codec_model"]

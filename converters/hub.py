"""Models on the Hugging Face Hub, fetched into its cache by its own client: HF_HOME, HF_TOKEN, HF_HUB_OFFLINE hold."""

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path

from bark_jax.config import CONFIG_FILE, GENERATION_CONFIG_FILE
from bark_jax.errors import CheckpointError, ModelNotFoundError
from bark_jax.hub import can_reach_hub
from bark_jax.weights import MANIFEST_FILE, sha256_of
from converters.extras import TOKENIZER_FILES, VOICE_FILES
from converters.suno import FILES

# Weights in order of preference: the first kind that a repository has is the one that is fetched.
WEIGHT_PATTERNS = (
    (MANIFEST_FILE, "*.safetensors"),
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*.safetensors"),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*.bin"),
    ("encodec_24khz-*.th",),
)
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".th")
OTHER_PATTERNS = (CONFIG_FILE, GENERATION_CONFIG_FILE, *TOKENIZER_FILES, *VOICE_FILES)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form owner/model."""
    return _HUB_ID.fullmatch(name) is not None


def fetch(repository: str, *, revision: str | None = None, size: str | None = None) -> Path:
    """The folder in the cache that holds the repository's model, fetched where it is not there yet.

    Args:
      size: fetch Suno's own files of this size instead of transformers' weights.

    Raises:
      ModelNotFoundError: it is not in the cache and cannot be fetched; the message says how to fetch it.
    """
    from huggingface_hub import errors, snapshot_download

    reason = "it cannot be reached"
    if can_reach_hub():
        try:
            return _download(repository, revision, size)
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            raise _not_found(repository, f"it has none of this name, or not for you: {_first_line(error)}") from error
        except Exception as error:  # a broken connection, in the words of the client or of the HTTP library below it
            reason = _first_line(error)
    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except errors.LocalEntryNotFoundError as error:
        raise _not_found(repository, reason) from error


def _download(repository: str, revision: str | None, size: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    names = HfApi().list_repo_files(repository, revision=revision)
    return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted_files(names, size)))


def _not_found(repository: str, reason: str) -> ModelNotFoundError:
    from huggingface_hub import constants

    return ModelNotFoundError(
        f"{repository} is no folder here and not in the cache {constants.HF_HUB_CACHE}; of the Hub: {reason}. "
        f"Where there is a network: bark-jax download {repository}"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def wanted_files(names: Sequence[str], size: str | None) -> list[str]:
    """Of a repository's files those that make the model: configs, tokenizer, voices, and one kind of weights."""
    if size is not None:
        weights = [*FILES[size].values(), "encodec_24khz-*.th"]
        return _matching(names, (*TOKENIZER_FILES, *VOICE_FILES, *weights))
    weights = next((patterns for patterns in WEIGHT_PATTERNS if _matching(names, patterns[:1])), ())
    return _matching(names, (*OTHER_PATTERNS, *weights))


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def snapshot_name(folder: Path) -> str | None:
    """`owner/name@commit` of a folder in the Hub's cache; None for any other folder."""
    folder = folder.resolve()
    repository = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not repository.startswith("models--"):
        return None
    return f"{repository.removeprefix('models--').replace('--', '/')}@{folder.name}"


def check_blobs(folder: Path) -> None:
    """Compares weight files of the Hub's cache with their SHA-256, which is the name that the cache gives them.

    Raises CheckpointError. Files that are no links to such a name are left unchecked, as there is nothing to go by.
    """
    for path in sorted(folder.iterdir()):
        blob = path.resolve()
        if path.suffix not in WEIGHT_SUFFIXES or not path.is_symlink() or not _SHA256.fullmatch(blob.name):
            continue
        found = sha256_of(blob) if blob.is_file() else "missing"
        if found != blob.name:
            raise CheckpointError(
                f"{path} is damaged: its SHA-256 is {found}, expected {blob.name}. "
                f"Remove {blob} and {path}, and download the model again."
            )

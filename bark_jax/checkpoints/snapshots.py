"""Downloads of models from the Hugging Face Hub into its cache.

They are made by huggingface_hub, so HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE work as usual.
"""

import fnmatch
import os
import re
from collections.abc import Sequence
from pathlib import Path

from bark_jax import tiny
from bark_jax.checkpoints._extras import TOKENIZER_FILES, VOICE_FILES
from bark_jax.checkpoints.layouts import LAYOUTS
from bark_jax.checkpoints.model_folder import NETWORKS, is_model_folder, read_manifest, weight_file
from bark_jax.config import CONFIG_FILE, GENERATION_CONFIG_FILE
from bark_jax.errors import BarkError, ModelNotFoundError, quoted
from bark_jax.files import is_inner_path, write_atomically
from bark_jax.hub.client import (
    COMMIT,
    can_reach_hub,
    check_answers,
    check_download,
    refuse_answer,
    stall_limited_progress,
)
from bark_jax.hub.source import check_revision

OTHER_PATTERNS = (CONFIG_FILE, GENERATION_CONFIG_FILE, *TOKENIZER_FILES, *VOICE_FILES)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form owner/model."""
    return _HUB_ID.fullmatch(name) is not None


def fetch(
    repository: str,
    *,
    revision: str | None = None,
    size: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """Downloads a repository's model into the Hub's cache, where it is not cached. Returns its folder there.

    Where the Hub cannot be reached, it is taken from the cache.

    Args:
      repository: a Hub id, owner/name.
      revision: a branch, a tag or a commit; None for the default branch.
      size: download Suno's own files of this size instead of transformers' weights.
      token, cache_dir, local_files_only, force_download: as in huggingface_hub.

    Raises:
      InputError: the revision is malformed.
      ModelNotFoundError: it is not in the cache and cannot be downloaded; the message names a remedy.
      CheckpointError: a downloaded file is damaged: its checksum is not the Hub's.
    """
    from huggingface_hub import errors, snapshot_download

    check_revision(revision)
    reason = "it is not asked (local_files_only)" if local_files_only else "it cannot be reached"
    if not local_files_only and can_reach_hub():
        try:
            folder = _download(
                repository, revision, size, token=token, cache_dir=cache_dir, force_download=force_download
            )
            if is_model_folder(folder):  # `open_source` checks the blobs of the others
                check_blobs(folder, remove=True)
            return folder
        except BarkError:
            raise
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            reason = f"it has none of this name, or you have no access: {_first_line(error)}"
            raise _not_found(repository, reason, cache_dir) from error
        except Exception as error:  # a broken connection: an error of the client or of the HTTP library below it
            reason = _first_line(error)
    try:
        return Path(snapshot_download(repository, revision=revision, cache_dir=cache_dir, local_files_only=True))
    except errors.LocalEntryNotFoundError as error:
        raise _not_found(repository, reason, cache_dir) from error


def _download(
    repository: str,
    revision: str | None,
    size: str | None,
    *,
    token: str | bool | None,
    cache_dir: str | os.PathLike | None,
    force_download: bool,
) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download

    check_answers()
    about = HfApi(token=token).model_info(repository, revision=revision)
    if not COMMIT.fullmatch(about.sha or ""):  # it becomes a part of paths, which the client does not check
        refuse_answer(constants.ENDPOINT, f"names no commit of {repository} but {quoted(about.sha)}")
    names = [file.rfilename for file in about.siblings or ()]
    # By commit, not by branch: a branch may move between the two requests, and `names` would be another commit's.
    folder = snapshot_download(
        repository,
        revision=about.sha,
        allow_patterns=wanted_files(names, size),
        tqdm_class=stall_limited_progress(),
        token=token,
        cache_dir=cache_dir,
        force_download=force_download,
    )
    if Path(folder).name != about.sha:  # the client asked again, and the server gave another commit
        refuse_answer(constants.ENDPOINT, f"names two commits of {repository}, {about.sha} and {Path(folder).name}")
    if revision != about.sha:
        _note_commit(_reference(repository, revision, cache_dir), about.sha)
    return Path(folder)


def _note_commit(reference: Path, commit: str) -> None:
    """Writes the commit of a branch or tag into the cache's `refs`, as the client does.

    The client writes it only when it is asked for a branch or tag, and `_download` asks for the commit.
    """
    reference.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(reference, commit.encode())


def _reference(repository: str, revision: str | None, cache_dir: str | os.PathLike | None) -> Path:
    from huggingface_hub import constants

    return _home(repository, cache_dir) / "refs" / (revision or constants.DEFAULT_REVISION)


def _home(repository: str, cache_dir: str | os.PathLike | None) -> Path:
    from huggingface_hub import constants

    return Path(cache_dir or constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}")


def find_snapshot(
    repository: str, *, revision: str | None = None, cache_dir: str | os.PathLike | None = None
) -> Path | None:
    """Finds the repository's folder in the Hub's cache, without network access; None if it was never downloaded.

    It is that of the commit which was last downloaded for this revision, and may hold only a part of the model. Raises
    InputError for a malformed revision.
    """
    check_revision(revision)
    reference = _reference(repository, revision, cache_dir)
    # A revision that is a commit has no reference: it stands for itself.
    commit = reference.read_text(errors="replace").strip() if reference.is_file() else revision or ""
    folder = _home(repository, cache_dir) / "snapshots" / commit
    return folder if COMMIT.fullmatch(commit) and folder.is_dir() else None


def is_complete(folder: Path) -> bool:
    """Whether a model folder has its configs and all files of its manifest, by size and not by checksum."""
    if not is_model_folder(folder):
        return False
    files = read_manifest(folder).files
    is_bark = all(weight_file(network) in files for network in NETWORKS)
    configs = (CONFIG_FILE, GENERATION_CONFIG_FILE) if is_bark else (CONFIG_FILE,)
    has_configs = all((folder / name).is_file() for name in configs)
    return has_configs and all(
        (folder / name).is_file() and (folder / name).stat().st_size == record.bytes for name, record in files.items()
    )


def _not_found(repository: str, reason: str, cache_dir: str | os.PathLike | None) -> ModelNotFoundError:
    from huggingface_hub import constants

    cache = cache_dir or constants.HF_HUB_CACHE
    return ModelNotFoundError(
        f"{repository} is no folder here and not in the cache {cache}; of the Hub: {reason}. "
        f"With a connection to the Hub it is fetched; {tiny.NAME} is built in and needs none (-m {tiny.NAME})"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def wanted_files(names: Sequence[str], size: str | None) -> list[str]:
    """Selects the files of a repository to download: configs, tokenizer, voices, and one kind of weights.

    With `size` it selects the weights of Suno's own files, and no configs, which those do not need.
    """
    if size is not None:
        weights = next(layout.sizes[size] for layout in LAYOUTS if size in layout.sizes)
        return _matching(names, (*TOKENIZER_FILES, *VOICE_FILES, *weights))
    kinds = [patterns for layout in LAYOUTS for patterns in layout.weights]
    weights = next((patterns for patterns in kinds if _matching(names, patterns[:1])), ())
    return _matching(names, (*OTHER_PATTERNS, *weights))


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if is_inner_path(name) and any(fnmatch.fnmatchcase(name, each) for each in patterns)]


def snapshot_name(folder: Path) -> str | None:
    """`owner/name@commit` of a folder in the Hub's cache; None for any other folder."""
    folder = folder.resolve()
    repository = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not repository.startswith("models--"):
        return None
    return f"{repository.removeprefix('models--').replace('--', '/')}@{folder.name}"


def check_blobs(folder: Path, *, remove: bool = False) -> None:
    """Compares every file of a folder in the Hub's cache with its checksum (`check_download`); hashes them in full.

    Any other folder is not checked: it has no checksums. Raises CheckpointError for the first damaged file.
    """
    if snapshot_name(folder) is None:
        return
    for root, _, names in os.walk(folder):
        for name in sorted(names):
            check_download(Path(root, name), remove=remove)

"""Records a model with transformers, in the form of files that `bark-jax verify --recordings` reads.

    python -m benchmarks.random_bark small /tmp/random-bark-small
    python -m benchmarks.record /tmp/random-bark-small /tmp/recordings --dtype float16
    bark-jax verify /tmp/random-bark-small --recordings /tmp/recordings --part recordings

It shows how far two programs, or two precisions, are apart at the real sizes.
"""

from collections.abc import Collection
from pathlib import Path

import click
import numpy as np

from bark_jax.checkpoints.find import find_model
from bark_jax.checkpoints.load import read_configs
from bark_jax.files import atomic_folder
from bark_jax.parity.reference import Reference, silenced
from bark_jax.verify.recordings import COARSE_GREEDY, FILES, FINE_GREEDY, SEMANTIC_GREEDY, SEMANTIC_LOGITS, Arrays
from bark_jax.voices.files import write_npz

N_PROMPTS = 3
N_TEXT_IDS = 12


def record(
    theirs: Reference, names: Collection[str] = FILES, *, n_semantic: int = 40, n_coarse: int = 240, seed: int = 0
) -> dict[str, Arrays]:
    """Records the files `names` from random text and random semantic tokens.

    Args:
      n_semantic: semantic tokens of the greedy run, and of the coarse codes that the fine run reads.
      n_coarse: semantic tokens that the coarse run reads; 240 take 12 windows, of which the last drop their oldest
        tokens.
    """
    spaces, rng = theirs.spaces, np.random.default_rng(seed)
    ids_NT = np.full((N_PROMPTS, 2 * spaces.n_text + 1), spaces.text_pad)
    text_ids_NT = rng.integers(1, spaces.text_pad - spaces.text_offset, (N_PROMPTS, N_TEXT_IDS))
    ids_NT[:, :N_TEXT_IDS] = text_ids_NT + spaces.text_offset
    ids_NT[:, spaces.n_text :], ids_NT[:, -1] = spaces.semantic_end, spaces.semantic_infer
    semantic_T = rng.integers(0, spaces.semantic_vocab, n_coarse)
    codes_QT = rng.integers(0, spaces.codebook_size, (spaces.n_coarse, spaces.n_frames(n_semantic)))
    files = {}
    if SEMANTIC_LOGITS in names:
        half = spaces.n_text
        logits = [theirs.semantic_logits(ids_T[:half], ids_T[half:-1], ids_T[-1:])[-1] for ids_T in ids_NT]
        files[SEMANTIC_LOGITS] = {"ids": ids_NT, "is_summed": np.ones(N_PROMPTS, bool), "logits": np.stack(logits)}
    if SEMANTIC_GREEDY in names:
        tokens_T, _ = theirs.semantic_tokens(text_ids_NT[0].tolist(), None, n_semantic)
        files[SEMANTIC_GREEDY] = {"ids": ids_NT[:1], "tokens_0": tokens_T}
    if COARSE_GREEDY in names:
        files[COARSE_GREEDY] = {"semantic_0": semantic_T, "coarse_0": theirs.coarse_codes(semantic_T, None)[0]}
    if FINE_GREEDY in names:
        files[FINE_GREEDY] = {"coarse_0": codes_QT, "fine_0": theirs.fine_codes(codes_QT, None)[0]}
    return files


@click.command(help=__doc__.splitlines()[0])
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--dtype", default="float32", show_default=True, help="Dtype in which transformers computes.")
@click.option("--file", "names", multiple=True, type=click.Choice(FILES), help="File to record.  [default: all]")
@click.option("--semantic", "n_semantic", default=40, show_default=True, help="Semantic tokens of the greedy run.")
@click.option("--coarse", "n_coarse", default=240, show_default=True, help="Semantic tokens of the coarse run.")
def main(model: Path, folder: Path, dtype: str, names: tuple[str, ...], n_semantic: int, n_coarse: int) -> None:
    """Records a transformers folder into a new folder."""
    _, generation_config = read_configs(find_model(model))
    with silenced(), atomic_folder(folder) as partial:
        theirs = Reference(model, generation_config, dtype)
        files = record(theirs, names or FILES, n_semantic=n_semantic, n_coarse=n_coarse)
        for name, arrays in files.items():
            write_npz(partial / name, arrays)
            click.echo(name)


if __name__ == "__main__":
    main()

"""Writes a Bark checkpoint of a published size with random weights, saved by transformers, tokenizer included.

    python -m benchmarks.random_bark small /tmp/random-bark-small

It stands in for a published checkpoint if none can be downloaded: the layout and all sizes are the same. The vocabulary
holds characters and placeholders, so ids differ from those of bert-base-multilingual-cased.
"""

import json
import string
from pathlib import Path

import click

from benchmarks.models import SIZES, make_config
from benchmarks.texts import texts

N_WORD_PIECES = 119_547  # of bert-base-multilingual-cased
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@click.command(help=__doc__.splitlines()[0])
@click.argument("size", type=click.Choice(SIZES))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Random seed of the weights.")
@click.option(
    "--initializer-range",
    default=0.05,
    show_default=True,
    help="Standard deviation of the weights; above transformers' 0.02, so that greedy tokens vary more.",
)
def main(size: str, folder: Path, seed: int, initializer_range: float) -> None:
    """Writes the checkpoint, its generation config and its tokenizer into a folder."""
    import torch
    import transformers
    from transformers.models.bark import generation_configuration_bark as generation

    torch.manual_seed(seed)
    values = json.loads(json.dumps(make_config(size).to_dict()))
    for part in ("semantic_config", "coarse_acoustics_config", "fine_acoustics_config"):
        values[part]["initializer_range"] = initializer_range
    model = transformers.BarkModel(transformers.BarkConfig.from_dict(values))
    with torch.no_grad():
        for layer in model.codec_model.quantizer.layers:
            layer.codebook.embed.normal_()  # transformers starts them at zero, and audio would not depend on codes
        # transformers does not mask ids past the codes after codebook 0. A zero row gives logit 0, never the maximum.
        model.coarse_acoustics.lm_head.weight[12_048:] = 0
    model.save_pretrained(folder)
    greedy = generation.BarkGenerationConfig()
    (folder / "generation_config.json").write_text(json.dumps(greedy.to_dict(), indent=2))
    (folder / "vocab.txt").write_text("\n".join(made_up_vocabulary()) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    click.echo(f"{folder}: {n_parameters / 1e6:.1f} M parameters")


def made_up_vocabulary() -> list[str]:
    """A WordPiece vocabulary of N_WORD_PIECES entries: special tokens, characters, then placeholders.

    The characters are those of ASCII, and after them those of `texts.txt`.
    """
    ascii_only = string.ascii_letters + string.digits + string.punctuation
    others = sorted({character for text in texts() for character in text.text} - {*ascii_only, " "})
    pieces = [*SPECIAL_TOKENS]
    for characters in (ascii_only, others):
        pieces += [*characters, *(f"##{character}" for character in characters)]
    return pieces + [f"[unused{index}]" for index in range(N_WORD_PIECES - len(pieces))]


if __name__ == "__main__":
    main()

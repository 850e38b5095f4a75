"""Export of a model's stages as StableHLO programs that run without this package.

    programs.py    each stage as a function of named arrays, with the layout of its prompt inside
    lowering.py    a stage's program for one platform, by `jax.export`, and the weights that it reads
    voices.py      a voice as the arrays that the programs take
    manifest.py    the folder's programs.json and README.md
    export.py      `bark_jax.export`: writes the folder
    speak.py       the script that loads and runs the programs; it is copied into the folder and imports no bark_jax

Weights in transformers' layout are another export: `checkpoints.export`.
"""

"""Layouts of checkpoints that can be opened, one module each: detection, files on the Hub, names of arrays, opening."""

from bark_jax.checkpoints.layouts import encodec, own, suno, transformers

# The order matters: the first layout whose `is_mine` is true opens a checkpoint, and the first that a repository has
# weight files of is downloaded.
LAYOUTS = (suno.LAYOUT, own.LAYOUT, transformers.LAYOUT, encodec.LAYOUT)

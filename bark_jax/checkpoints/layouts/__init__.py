"""The layouts of checkpoint that can be opened, a module each: its signs, files on the Hub, names of arrays, opener."""

from bark_jax.checkpoints.layouts import encodec, own, suno, transformers

# In order: the first that says a folder is its own opens it, and the first whose weights a repository has is fetched.
LAYOUTS = (suno.LAYOUT, own.LAYOUT, transformers.LAYOUT, encodec.LAYOUT)

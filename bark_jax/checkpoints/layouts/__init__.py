"""Layouts of checkpoints, a module each: the files that are it, how they open, the table of its names."""

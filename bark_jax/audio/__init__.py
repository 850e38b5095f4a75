"""Audio: clips, files of every format, figures, mel filters."""

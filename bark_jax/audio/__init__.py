"""Audio: `clip` has recordings and clips, `files` and `formats` write audio files, `plots` and `mel` draw figures."""

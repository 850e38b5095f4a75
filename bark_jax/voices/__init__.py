"""Voices: `voice` has `Voice` and its checks, `files` reads .npz and .npy safely, `library` finds voices by name."""

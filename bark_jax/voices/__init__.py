"""Voices: a voice and its checks, its .npz and .npy files, voices found by name."""

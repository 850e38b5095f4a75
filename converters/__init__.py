"""Weight files of other programs: PyTorch checkpoints and transformers' safetensors, read without PyTorch."""

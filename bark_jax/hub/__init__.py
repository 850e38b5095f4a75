"""The Hugging Face Hub: its client, and single files of a model there or in a folder."""

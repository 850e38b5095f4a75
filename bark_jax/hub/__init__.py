"""Client of the Hugging Face Hub, with checks of what servers answer, and access to single files of a model."""

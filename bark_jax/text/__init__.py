"""Text to ids: what can be spoken, the tokenizer, sentences that make good prompts, the words that a model knows."""

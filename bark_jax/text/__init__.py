"""Text to ids: what can be spoken, the tokenizer, sentences that make good prompts, the words that a model knows.

`prompts` has what comes of a text that was checked, which `processor` makes and `Bark` speaks.
"""

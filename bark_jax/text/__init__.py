"""Text processing: checks, sentence splitting, the tokenizer and the word list of a model.

checks       is a text speakable? Unicode normalisation
sentences    a text of any length -> prompts
tokenizer    BERT's word pieces
vocabulary   words that a small model knows
prompts      checked text -> token ids and rows
processor    `BarkProcessor`: texts -> token ids, names -> voices
"""

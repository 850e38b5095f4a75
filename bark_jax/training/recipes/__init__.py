"""Training recipes: each runs data preparation, training and evaluation by one command."""

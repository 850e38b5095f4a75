"""Training: from recordings to networks, in the forms that generation reads."""

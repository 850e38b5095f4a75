"""Whole trainings, each one command."""

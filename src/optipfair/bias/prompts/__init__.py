"""Pairs of prompts, their words and their tokens."""

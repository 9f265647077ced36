"""Perplexity, and two models side by side on the same text."""

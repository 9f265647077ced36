"""What a model says after words of two kinds, and where the difference arises."""

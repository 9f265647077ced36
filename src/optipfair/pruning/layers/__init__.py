"""Which layers to remove."""

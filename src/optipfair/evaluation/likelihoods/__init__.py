"""How likely a model finds a text after another."""

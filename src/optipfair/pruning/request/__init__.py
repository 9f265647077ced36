"""How much to remove: what was asked for, checked and turned into numbers."""

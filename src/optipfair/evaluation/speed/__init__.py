"""How fast a model generates, and how much memory it takes."""

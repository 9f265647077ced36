"""Text through the model, layer by layer, and what is measured of it."""

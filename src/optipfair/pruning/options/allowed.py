"""Names and numbers that options may have, where no registry of functions holds them."""

from __future__ import annotations

from ...registry import Registry

DEFAULT_PERCENTAGE = 10
EXPANSION_DIVISORS = (32, 64, 128, 256)
VERIFY = ("fast", "full", "none")

PRUNING_TYPES: Registry[str] = Registry("pruning_type")
PRUNING_TYPES.add("MLP_GLU", "Remove neurons of the MLPs (width).")
PRUNING_TYPES.add("DEPTH", "Remove whole decoder layers.")
PRUNING_TYPES.add("BOTH", "Remove layers, and neurons of the layers that stay.")
PRUNING_TYPES.add("ATTENTION", "Remove key/value groups with their query heads, or query heads.")

LAYER_WIDTHS: Registry[str] = Registry("layer_widths")
LAYER_WIDTHS.add("uniform", "The same share of every layer, which loads everywhere.")
LAYER_WIDTHS.add("by_loss", "Less of the layers that the model misses most, more of the others.")

from . import presets as presets
from .prune_options import PruneOptions as PruneOptions

"""`optipfair.pruning.depth`: whole decoder layers."""

from optipfair.pruning.api import (
    prune_model_depth,
    remove_layers_from_model,
    validate_layer_removal_params,
)
from optipfair.pruning.layers.influence import (
    analyze_layer_importance,
)
from optipfair.pruning.layers.strategies import (
    select_layers_to_remove,
)

"""`optipfair.pruning.utils`: what a model weighs and where its layers are."""

from optipfair.pruning.api import (
    get_model_layers,
    validate_model_for_glu_pruning,
)
from optipfair.pruning.statistics import (
    count_parameters,
    get_pruning_statistics,
)

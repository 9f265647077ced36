"""Scores of pruning that are also names of `optipfair.bias`."""

from optipfair.pruning.importance.fairness_scores import (
    combine_bias_and_importance,
    compute_fairness_pruning_scores,
)

"""`optipfair.bias.metrics`: how much the activations of two prompts differ."""

from optipfair.bias.activations.differences import (
    calculate_activation_differences,
    calculate_bias_metrics,
)
from optipfair.bias.neuron_differences import analyze_neuron_bias

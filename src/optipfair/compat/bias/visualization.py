"""`optipfair.bias.visualization`: figures."""

from optipfair.bias.visualize import (
    visualize_bias,
    visualize_heatmap,
    visualize_mean_differences,
    visualize_pca,
)
from optipfair.bias.visualize_prompt import (
    visualize_prompt_heatmap,
)

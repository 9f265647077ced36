from .fairness import (
    compute_fairness_pruning_scores as compute_fairness_pruning_scores,
    neuron_bias_scores as neuron_bias_scores,
)
from .activations.layer_keys import COMPONENTS as COMPONENTS
from .activations.differences import calculate_bias_metrics as calculate_bias_metrics
from .prompts.pair_templates import ATTRIBUTES as ATTRIBUTES
from .prompts.pairs import DEFAULT_PROMPT_PAIRS as DEFAULT_PROMPT_PAIRS
from .prompts.pair_templates import PROMPT_TEMPLATES as PROMPT_TEMPLATES
from .prompts.pairs import PromptPair as PromptPair
from .prompts.pair_templates import generate_prompt_pairs as generate_prompt_pairs
from .prompts.pairs import read_prompt_pairs as read_prompt_pairs
from .visualize import (
    visualize_bias as visualize_bias,
    visualize_heatmap as visualize_heatmap,
    visualize_mean_differences as visualize_mean_differences,
    visualize_pca as visualize_pca,
)

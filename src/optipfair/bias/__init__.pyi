from .attribution import attribute_bias as attribute_bias
from .attribution_result import Attribution as Attribution
from .contrasts.contrast import Contrast as Contrast
from .contrasts.contrast_files import CONTRASTS as CONTRASTS
from .fairness import neuron_bias_scores as neuron_bias_scores
from .fairness_pruning import (  # type: ignore[import-not-found]  # found in compat/bias
    combine_bias_and_importance as combine_bias_and_importance,
    compute_fairness_pruning_scores as compute_fairness_pruning_scores,
)
from .neuron_differences import analyze_neuron_bias as analyze_neuron_bias
from .activations.layer_keys import COMPONENTS as COMPONENTS
from .activations.differences import (
    calculate_activation_differences as calculate_activation_differences,
    calculate_bias_metrics as calculate_bias_metrics,
)
from .activations.raw_activations import (
    get_activation_pairs as get_activation_pairs,
    get_prompt_activations as get_prompt_activations,
)
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
from .visualize_prompt import visualize_prompt_heatmap as visualize_prompt_heatmap

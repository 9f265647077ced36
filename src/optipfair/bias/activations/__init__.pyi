from .differences import (
    calculate_activation_differences as calculate_activation_differences,
    calculate_bias_metrics as calculate_bias_metrics,
)
from .raw_activations import (
    get_activation_pairs as get_activation_pairs,
    get_layer_names as get_layer_names,
    get_prompt_activations as get_prompt_activations,
    process_prompt as process_prompt,
    register_hooks as register_hooks,
    remove_hooks as remove_hooks,
    select_layers as select_layers,
)

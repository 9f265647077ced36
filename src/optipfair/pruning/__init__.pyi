from .api import (
    get_model_layers as get_model_layers,
    plan_pruning as plan_pruning,
    prune_model as prune_model,
    prune_model_depth as prune_model_depth,
    prune_model_mlp_glu as prune_model_mlp_glu,
    remove_layers_from_model as remove_layers_from_model,
    validate_layer_removal_params as validate_layer_removal_params,
    validate_model_for_glu_pruning as validate_model_for_glu_pruning,
)
from .importance.criteria import (
    compute_neuron_pair_importance_l2 as compute_neuron_pair_importance_l2,
    compute_neuron_pair_importance_maw as compute_neuron_pair_importance_maw,
    compute_neuron_pair_importance_pon as compute_neuron_pair_importance_pon,
    compute_neuron_pair_importance_vow as compute_neuron_pair_importance_vow,
)
from .importance.neuron_hooks import (
    get_activation_norms as get_activation_norms,
    run_calibration_forward_passes as run_calibration_forward_passes,
    setup_mlp_hooks_for_importance as setup_mlp_hooks_for_importance,
)
from .importance.fairness_scores import (
    combine_bias_and_importance as combine_bias_and_importance,
    compute_fairness_pruning_scores as compute_fairness_pruning_scores,
)
from .calibration.calibration_texts import calibration_loader as calibration_loader
from .layers.influence import analyze_layer_importance as analyze_layer_importance
from .neurons import (
    neuron_importance_scores as neuron_importance_scores,
    prune_neuron_pairs as prune_neuron_pairs,
    zero_neurons_mlp as zero_neurons_mlp,
)
from .cut.plan import PruningPlan as PruningPlan, WidthCut as WidthCut
from .layers.strategies import select_layers_to_remove as select_layers_to_remove
from .options import presets as presets
from .options.prune_options import PruneOptions as PruneOptions
from .statistics import (
    ModelSummary as ModelSummary,
    count_parameters as count_parameters,
    get_pruning_statistics as get_pruning_statistics,
    summarize as summarize,
)
from .cut.surgery import apply_plan as apply_plan
from .request.width_targets import (
    calculate_pruning_percentage_from_expansion_rate as calculate_pruning_percentage_from_expansion_rate,
    round_to_divisor as round_to_divisor,
)

"""`optipfair.pruning.mlp_glu`: the width of gated MLPs."""

from optipfair.pruning.api import prune_model_mlp_glu
from optipfair.pruning.importance.criteria import (
    compute_neuron_pair_importance_l2,
    compute_neuron_pair_importance_maw,
    compute_neuron_pair_importance_pon,
    compute_neuron_pair_importance_vow,
)
from optipfair.pruning.importance.fairness_scores import (
    compute_fairness_pruning_scores,
)
from optipfair.pruning.importance.neuron_hooks import (
    get_activation_norms,
    run_calibration_forward_passes,
    setup_mlp_hooks_for_importance,
)
from optipfair.pruning.neurons import (
    prune_neuron_pairs,
    zero_neurons_mlp,
)
from optipfair.pruning.request.width_targets import (
    calculate_pruning_percentage_from_expansion_rate,
    round_to_divisor,
)

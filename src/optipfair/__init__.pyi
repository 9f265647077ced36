from ._version import __version__ as __version__
from .analysis import Analysis as Analysis, analyze_model as analyze_model
from .bias.attribution import attribute_bias as attribute_bias
from .bias.attribution_result import Attribution as Attribution
from .bias.contrasts.contrast import Contrast as Contrast
from .bias.contrasts.contrast_files import CONTRASTS as CONTRASTS
from .bias.fairness import neuron_bias_scores as neuron_bias_scores
from .bias.neuron_differences import analyze_neuron_bias as analyze_neuron_bias
from .bias.activations.differences import (
    calculate_activation_differences as calculate_activation_differences,
    calculate_bias_metrics as calculate_bias_metrics,
)
from .bias.activations.raw_activations import (
    get_activation_pairs as get_activation_pairs,
    get_prompt_activations as get_prompt_activations,
)
from .bias.prompts.pair_templates import ATTRIBUTES as ATTRIBUTES
from .bias.prompts.pairs import DEFAULT_PROMPT_PAIRS as DEFAULT_PROMPT_PAIRS
from .bias.prompts.pair_templates import PROMPT_TEMPLATES as PROMPT_TEMPLATES
from .bias.prompts.pairs import PromptPair as PromptPair
from .bias.prompts.pair_templates import generate_prompt_pairs as generate_prompt_pairs
from .bias.prompts.pairs import read_prompt_pairs as read_prompt_pairs
from .bias.visualize import (
    visualize_bias as visualize_bias,
    visualize_heatmap as visualize_heatmap,
    visualize_mean_differences as visualize_mean_differences,
    visualize_pca as visualize_pca,
)
from .bias.visualize_prompt import visualize_prompt_heatmap as visualize_prompt_heatmap
from .errors import (
    ArgumentError as ArgumentError,
    CheckpointError as CheckpointError,
    DataError as DataError,
    ModelOutputError as ModelOutputError,
    OptiPFairError as OptiPFairError,
    OutputError as OutputError,
    PruningWarning as PruningWarning,
    UnknownNameError as UnknownNameError,
    UnsupportedModelError as UnsupportedModelError,
    VerificationError as VerificationError,
)
from .evaluation.comparing import compare_models as compare_models
from .evaluation.evaluating import evaluate_model as evaluate_model
from .evaluation.likelihoods.next_token_gap import (
    NextTokenGap as NextTokenGap,
    next_token_gap as next_token_gap,
)
from .evaluation.text.perplexity import Perplexity as Perplexity, perplexity as perplexity
from .evaluation.speed.timing import (
    compare_models_inference as compare_models_inference,
    time_inference as time_inference,
)
from .export.export_options import ExportOptions as ExportOptions
from .export.exporting import ExportResult as ExportResult, export_model as export_model
from .loading.models import load_model as load_model
from .loading.tokenizers import load_tokenizer as load_tokenizer
from .neutralising.neutralisation import Neutralisation as Neutralisation
from .neutralising.neutralise_options import NeutraliseOptions as NeutraliseOptions
from .neutralising.neutralising import neutralise as neutralise
from .pipeline.neutralise import (
    NeutraliseResult as NeutraliseResult,
    neutralise_checkpoint as neutralise_checkpoint,
)
from .pipeline.prune import prune_checkpoint as prune_checkpoint
from .pipeline.prune_result import PruneResult as PruneResult
from .pipeline.healing.recover import (
    RecoverResult as RecoverResult,
    recover_checkpoint as recover_checkpoint,
)
from .search.search_options import SearchOptions as SearchOptions
from .search.search_result import SearchResult as SearchResult
from .search.searching import search_model as search_model
from .pruning.api import (
    get_model_layers as get_model_layers,
    plan_pruning as plan_pruning,
    prune_model as prune_model,
    prune_model_depth as prune_model_depth,
    prune_model_mlp_glu as prune_model_mlp_glu,
    remove_layers_from_model as remove_layers_from_model,
    validate_layer_removal_params as validate_layer_removal_params,
    validate_model_for_glu_pruning as validate_model_for_glu_pruning,
)
from .pruning.importance.criteria import (
    compute_neuron_pair_importance_l2 as compute_neuron_pair_importance_l2,
    compute_neuron_pair_importance_maw as compute_neuron_pair_importance_maw,
    compute_neuron_pair_importance_pon as compute_neuron_pair_importance_pon,
    compute_neuron_pair_importance_vow as compute_neuron_pair_importance_vow,
)
from .pruning.importance.fairness_scores import (
    combine_bias_and_importance as combine_bias_and_importance,
    compute_fairness_pruning_scores as compute_fairness_pruning_scores,
)
from .pruning.calibration.calibration_texts import calibration_loader as calibration_loader
from .pruning.layers.influence import analyze_layer_importance as analyze_layer_importance
from .pruning.neurons import (
    neuron_importance_scores as neuron_importance_scores,
    prune_neuron_pairs as prune_neuron_pairs,
    zero_neurons_mlp as zero_neurons_mlp,
)
from .pruning.cut.plan import PruningPlan as PruningPlan, WidthCut as WidthCut
from .pruning.layers.strategies import select_layers_to_remove as select_layers_to_remove
from .pruning.options import presets as presets
from .pruning.options.prune_options import PruneOptions as PruneOptions
from .pruning.statistics import (
    ModelSummary as ModelSummary,
    count_parameters as count_parameters,
    get_pruning_statistics as get_pruning_statistics,
    summarize as summarize,
)
from .recovery.distilling.distillation import distill_model as distill_model
from .recovery.distilling.distillation_stats import DistillationStats as DistillationStats
from .recovery.distilling.layer_maps import (
    MAPPING_LAST as MAPPING_LAST,
    MAPPING_ORIGINAL as MAPPING_ORIGINAL,
    MAPPING_UNIFORM as MAPPING_UNIFORM,
)
from .pruning.cut.surgery import apply_plan as apply_plan
from .pruning.request.width_targets import (
    calculate_pruning_percentage_from_expansion_rate as calculate_pruning_percentage_from_expansion_rate,
)
from .recovery.recover_options import RecoverOptions as RecoverOptions
from .recovery.recovering import recover as recover
from .recovery.recovery_result import Recovery as Recovery

from .distilling.distillation import distill_model as distill_model
from .distilling.distillation_stats import DistillationStats as DistillationStats
from .distilling.layer_maps import (
    MAPPING_LAST as MAPPING_LAST,
    MAPPING_ORIGINAL as MAPPING_ORIGINAL,
    MAPPING_UNIFORM as MAPPING_UNIFORM,
)
from .objectives import (
    bucketed_kl as bucketed_kl,
    cross_entropy as cross_entropy,
    forward_kl as forward_kl,
    skewed_kl as skewed_kl,
)
from .recover_options import RecoverOptions as RecoverOptions
from .recovering import recover as recover
from .recovery_result import Judged as Judged, Recovery as Recovery

"""`optipfair.distillation`: a student learns from its teacher."""

from optipfair.recovery.distilling.distillation import distill_model
from optipfair.recovery.distilling.layer_maps import MAPPING_LAST, MAPPING_UNIFORM

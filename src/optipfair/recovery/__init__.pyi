from .objectives import (
    bucketed_kl as bucketed_kl,
    cross_entropy as cross_entropy,
    forward_kl as forward_kl,
    skewed_kl as skewed_kl,
)
from .recover_options import RecoverOptions as RecoverOptions
from .recovering import recover as recover
from .recovery_result import Judged as Judged, Recovery as Recovery

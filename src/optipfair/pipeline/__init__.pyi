from .prune import prune_checkpoint as prune_checkpoint
from .prune_result import PruneResult as PruneResult
from .healing.recover import (
    RecoverResult as RecoverResult,
    recover_checkpoint as recover_checkpoint,
)

from .prune import PruneResult as PruneResult, prune_checkpoint as prune_checkpoint
from .recover import RecoverResult as RecoverResult, recover_checkpoint as recover_checkpoint

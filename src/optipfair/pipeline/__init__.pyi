from .prune import PruneResult as PruneResult, prune_checkpoint as prune_checkpoint

"""One pruning of a checkpoint, decided but not yet written: from its files, or loaded."""

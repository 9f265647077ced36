"""The same plan on disk: the files of a model, pruned without loading it as a whole."""

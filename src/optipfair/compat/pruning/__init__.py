"""Old module paths below `optipfair.pruning`."""

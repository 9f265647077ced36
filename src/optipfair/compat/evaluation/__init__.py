"""Old module paths below `optipfair.evaluation`."""

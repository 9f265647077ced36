"""Old module paths below `optipfair.cli`."""

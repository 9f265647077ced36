"""Old module paths below `optipfair.bias`."""

"""How much items say: exact statistics of shares, and items that are not independent."""

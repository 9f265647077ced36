"""Which shape loses least under a budget: parts scored alone, chosen exactly, judged together."""

"""What is cut in the place of neurons: groups of heads, and routed experts."""

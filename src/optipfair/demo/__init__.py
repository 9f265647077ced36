"""The demonstration: a real model gets smaller, loads again and still answers."""

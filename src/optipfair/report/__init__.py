"""Results for people: model cards (more formats follow the results that need them)."""

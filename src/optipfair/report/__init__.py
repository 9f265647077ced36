"""Results for people: model cards, and the page of a comparison of two models."""

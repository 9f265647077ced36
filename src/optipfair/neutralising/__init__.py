"""The least change of a model's weights after which words of two kinds are followed alike."""

"""Models, configs and tokenizers from wherever they are."""

"""What a model computes for a prompt, and how much two prompts differ."""

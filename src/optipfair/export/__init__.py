"""A model in the form that another engine loads: vLLM, MLX, llama.cpp, transformers."""

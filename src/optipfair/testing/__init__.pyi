from .toys import (
    TINY_FAMILIES as TINY_FAMILIES,
    byte_tokenizer as byte_tokenizer,
    tiny_config as tiny_config,
    tiny_model as tiny_model,
)

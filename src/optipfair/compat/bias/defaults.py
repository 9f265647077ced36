"""`optipfair.bias.defaults`: pairs of prompts, and templates for more."""

from optipfair.bias.prompts.pair_templates import (
    ATTRIBUTES,
    PROMPT_TEMPLATES,
    generate_prompt_pairs,
)
from optipfair.bias.prompts.pairs import DEFAULT_PROMPT_PAIRS

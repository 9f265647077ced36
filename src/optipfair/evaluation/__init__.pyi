from .comparing import compare_models as compare_models
from .evaluating import evaluate_model as evaluate_model
from .measures import jensen_shannon as jensen_shannon, total_variation as total_variation
from .likelihoods.next_token_gap import (
    NextTokenGap as NextTokenGap,
    next_token_gap as next_token_gap,
)
from .text.perplexity import Perplexity as Perplexity, perplexity as perplexity
from .speed.timing import (
    compare_models_inference as compare_models_inference,
    speed_table as speed_table,
    time_inference as time_inference,
)

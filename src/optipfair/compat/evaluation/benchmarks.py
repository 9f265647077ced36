"""`optipfair.evaluation.benchmarks`: how fast models generate."""

from optipfair.evaluation.speed.timing import (
    compare_models_inference,
    time_inference,
)

from .quality import Perplexity as Perplexity, perplexity as perplexity
from .timing import time_inference as time_inference

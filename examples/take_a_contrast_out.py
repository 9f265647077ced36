"""Find where a contrast arises in a model, take it out, and look again.

Offline on the embedded model (extra `demo`, some minutes), with `--tiny` on a toy in seconds.
"""

import argparse

from optipfair import Contrast, attribute_bias, load_model, load_tokenizer, neutralise
from optipfair.testing import byte_tokenizer, tiny_model

CONTRAST = Contrast(
    "pronouns",
    ("The {word} said that", "I asked the {word} whether", "My friend is a {word} and"),
    (
        ("florist", "nanny", "midwife", "dancer", "maid", "stylist"),
        ("pilot", "soldier", "sailor", "miner", "boxer", "captain"),
    ),
    ((" she",), (" he",)),
)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--tiny", action="store_true", help="a toy model, seconds")
tiny = parser.parse_args().tiny
model = tiny_model("llama") if tiny else load_model("demo")
tokenizer = byte_tokenizer() if tiny else load_tokenizer("demo")
samples = 4 if tiny else 32


def look(when):
    (found,) = attribute_bias(model, tokenizer, CONTRAST, checked=1)
    largest = found.checks[0]
    print(f"{when}: she rather than he by {found.behaviour.value:+.3f} nats;", end=" ")
    print(f"most by the {largest.component} of layer {largest.layer}:", end=" ")
    print(f"{largest.predicted:+.3f} predicted, {largest.patched:+.3f} when it is taken away")


look("before")
done = neutralise(model, tokenizer, CONTRAST, calibration_samples=samples)
print(f"changed {done.strength:g} times, at {done.divergence:.4f} nats a token of other text")
look("after")

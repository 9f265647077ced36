"""Prune a model with calibration data, save it, load it again. Runs offline on a toy model."""

import tempfile

import torch
from transformers import AutoModelForCausalLM

from optipfair import prune_model
from optipfair.testing import byte_tokenizer, tiny_model

tokenizer = byte_tokenizer()
texts = ["Text of the kind the model will see.", "Longer and shorter texts may be mixed freely."]
batches = [tokenizer(texts, return_tensors="pt", padding=True)]

model = tiny_model("llama")
model, stats = prune_model(
    model, pruning_percentage=20, dataloader=batches, return_stats=True, show_progress=False
)
print(f"{stats['percentage_reduction']:.1f} % of the parameters are gone")

with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    reloaded = AutoModelForCausalLM.from_pretrained(folder)
with torch.no_grad():
    difference = (reloaded(**batches[0]).logits - model(**batches[0]).logits).abs().max()
print(f"reloaded logits differ by {difference:.1g}")

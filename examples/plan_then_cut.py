"""Decide first, look at the decision, then carry it out. Runs offline on a toy model."""

from optipfair import apply_plan, plan_pruning
from optipfair.testing import tiny_model

model = tiny_model("qwen3")
plan = plan_pruning(model, "DEPTH", num_layers_to_remove=1)
print("would remove layers", plan.drop_layers, "of", plan.num_layers)
apply_plan(model, plan)

plan = plan_pruning(model, neuron_selection_method="VOW", expansion_rate=150)
for cut in plan.width_cuts:
    print(f"layer {cut.layer}: {cut.kept} of {cut.width} neurons stay")
apply_plan(model, plan)
print("width now", model.config.intermediate_size)
